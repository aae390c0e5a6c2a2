"""SIM on Mask2Former: when its losses begin, what the teacher says, what checkpoints keep, and that no mask is read."""

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch.nn import functional as F

from instseg_d2.checkpoint import CheckpointError
from instseg_d2.testing import fake_batch, fake_instances, tiny_mask2former, without_objects

LAYERS = ("", "_0", "_1")


def model(*, warmup_iters=0, seed=0):
    """A tiny one that pastes into every batch, once it has seen another."""
    result = tiny_mask2former(recipe="sim_mask2former", seed=seed)
    result.warmup_iters = warmup_iters
    result.copy_paste.probability, result.copy_paste.least_images = 1.0, 1
    # Untrained masks are unsure of everything.
    result.paste_threshold, result.labeler.confident = 0.4, 0.4
    return result


def steps(network, batches):
    """Losses of training steps, with an optimizer that moves the student."""
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.001)
    history = []
    for batch in batches:
        with EventStorage():
            losses = network(batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        history.append({name: value.item() for name, value in losses.items()})
    return history


def batches(count):
    return [fake_batch(seed=seed) for seed in range(count)]


def test_pseudo_masks_and_pastes_begin_after_the_warm_up():
    torch.manual_seed(0)
    history = steps(model(warmup_iters=2), batches(4))
    parts = ("class", "prj", "pairwise", "pseudo", "paste")
    assert all(set(losses) == {f"loss_{p}{s}" for p in parts for s in LAYERS} for losses in history)
    for suffix in LAYERS:
        assert [losses[f"loss_pseudo{suffix}"] > 0 for losses in history] == [False, False, True, True]
        # The first batch after the warm-up is remembered, the second gets objects of it.
        assert [losses[f"loss_paste{suffix}"] > 0 for losses in history] == [False, False, False, True]


def test_every_parameter_learns_of_boxes_pseudo_masks_and_pastes():
    torch.manual_seed(0)
    network = model()
    steps(network, batches(1))
    with EventStorage():
        losses = network(fake_batch(seed=1))
    assert losses["loss_paste"] > 0
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters() if p.requires_grad)
    network.zero_grad()
    with EventStorage():
        losses = network(fake_batch(seed=2))
    sum(value for name, value in losses.items() if "pseudo" in name).backward()
    assert network.decoder.mask_embedding[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("warmup_iters", [0, 5])
def test_images_without_objects(warmup_iters):
    network = model(warmup_iters=warmup_iters)
    with EventStorage():
        keys = set(network(fake_batch()))
        losses = network(without_objects(fake_batch()))
    assert set(losses) == keys
    assert all(losses[f"loss_pseudo{suffix}"].item() == 0 for suffix in LAYERS)
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in network.parameters() if p.requires_grad)


def test_masks_of_all_layers_are_positives_of_an_object():
    network = model()
    network.teacher.follow()
    step = network.training_pass(fake_batch())
    targets = network.supervision.targets(step)
    taught = network.teach(step, targets)
    assert taught.features.shape == step.mask_features.shape
    assert taught.instance_maps.shape == (4, 16, 24)
    assert torch.bincount(taught.gt_inds).tolist() == [3, 3, 3, 3]
    assert 0 <= taught.instance_maps.min() <= taught.instance_maps.max() <= 1
    # With weights that are all the same the map is the mean over layers; the teacher is the student yet.
    network.labeler.mu = 0.0
    mean = torch.zeros(16, 24)
    for output in step.outputs:
        pairs = network.supervision.matcher(output, targets.images)
        row = (pairs.objects == 2).nonzero().item()
        mean += output.mask_logits[pairs.images[row], pairs.queries[row]].sigmoid() / 3
    torch.testing.assert_close(network.teach(step, targets).instance_maps[2], mean, atol=1e-5, rtol=1e-4)


def test_better_boxes_count_more():
    network = model()
    network.teacher.follow()
    step = network.training_pass(fake_batch())
    targets = network.supervision.targets(step)
    network.labeler.mu = 1000.0  # the best alone
    maps = network.teach(step, targets).instance_maps
    candidates = []
    for output in step.outputs:
        pairs = network.supervision.matcher(output, targets.images)
        row = (pairs.objects == 0).nonzero().item()
        candidates.append(output.mask_logits[pairs.images[row], pairs.queries[row]].sigmoid())
    assert min((maps[0] - candidate).abs().max().item() for candidate in candidates) < 1e-4


def test_no_mask_of_the_ground_truth_is_read():
    results = []
    for change in ("none", "others", "gone"):
        torch.manual_seed(0)
        given = batches(3)
        for item in (item for batch in given for item in batch):
            if change == "others":
                masks = fake_instances(64, 96, [[0, 0, 5, 5], [50, 50, 60, 60]]).gt_masks
                item["instances"].gt_masks = masks
            elif change == "gone":
                item["instances"].remove("gt_masks")
        network = model()
        results.append((steps(network, given), torch.cat([p.detach().flatten() for p in network.parameters()])))
    assert results[0][0][-1]["loss_paste"] > 0
    for history, weights in results[1:]:
        assert history == results[0][0]
        assert torch.equal(weights, results[0][1])


def test_a_resumed_training_goes_on():
    network = model(warmup_iters=1)
    torch.manual_seed(0)
    steps(network, batches(2))
    state = {name: value.clone() for name, value in network.state_dict().items()}
    assert "teacher.decoder.query_features" in state
    assert not any(name.startswith("teacher.") for name, _ in network.named_parameters())
    again = model(warmup_iters=1, seed=1)
    again.load_state_dict(state)
    assert again.iterations.item() == 2
    network.copy_paste, again.copy_paste = None, None  # whose bank is not saved
    assert steps(network, [fake_batch(seed=5)]) == steps(again, [fake_batch(seed=5)])


def test_prototypes_learn_from_the_first_step_on():
    network = model(warmup_iters=100)
    before = network.labeler.prototypes.vectors.clone()
    assert before.shape == (3, 10, 16)
    steps(network, batches(1))
    after = network.labeler.prototypes.vectors
    assert not torch.equal(before[:2], after[:2])
    torch.testing.assert_close(after, F.normalize(after, dim=2))


def test_predictions_of_the_student_or_the_teacher():
    network = model(warmup_iters=100)
    steps(network, batches(2))
    network.eval()
    batch = fake_batch(1)
    student = network(batch)[0]["instances"]
    network.test_with_teacher = True
    teacher = network(batch)[0]["instances"]
    assert not torch.equal(student.scores, teacher.scores)
    network.test_with_teacher = False
    assert torch.equal(network(batch)[0]["instances"].scores, student.scores)


def test_mistakes():
    fresh = model().eval()
    fresh.test_with_teacher = True
    with pytest.raises(CheckpointError, match="test_with_teacher"):
        fresh(fake_batch(1))
