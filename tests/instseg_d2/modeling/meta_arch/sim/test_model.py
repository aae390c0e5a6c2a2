"""SIM as a whole: losses and their schedule, teacher, checkpoints, pasting, the released settings, two processes."""

import copy
import math

import pytest
import torch
import torch.distributed as dist
from detectron2.config import instantiate
from detectron2.structures import Boxes
from detectron2.utils.events import EventStorage
from torch import multiprocessing
from torch.nn.parallel import DistributedDataParallel

from instseg_d2.checkpoint.checkpointer import Checkpointer, CheckpointError, load_weights
from instseg_d2.model_zoo import get_config
from instseg_d2.testing import fake_batch, tiny_condinst, tiny_condinst_config, without_objects

BOXES = {"loss_fcos_cls", "loss_fcos_loc", "loss_fcos_ctr", "loss_prj", "loss_pairwise"}
LOSSES = BOXES | {"loss_pseudo", "loss_paste"}


def config(**settings):
    """Tiny, with pseudo masks from the second step on; untrained maps are sure of little, so the cuts are low."""
    node = tiny_condinst_config(recipe="sim")
    node.supervision.warmup_iters = 4
    node.update(warmup_iters=1, positives_per_image=6, paste_threshold=0.3, teacher_momentum=0.5)
    node.labeler.confident = 0.4
    node.labeler.thresholds.update(low=0.45, high=0.5)
    node.copy_paste.probability = 1.0
    node.copy_paste.bank.capacity = 2
    node.update(settings)
    return node


def build(node=None, seed=0):
    torch.manual_seed(seed)
    return instantiate(config() if node is None else node)


def step(model, batch):
    with EventStorage() as storage:
        losses = model(batch)
        model.logged = {name: value for name, (value, _) in storage.latest().items()}
    sum(losses.values()).backward()
    return losses


def train(model, batches, lr=0.01):
    optimizer = torch.optim.SGD(model.parameters(), lr)
    history = []
    for batch in batches:
        optimizer.zero_grad()
        history.append({name: value.item() for name, value in step(model, batch).items()})
        optimizer.step()
    return history


def test_the_same_losses_in_every_step_and_pseudo_masks_after_the_warm_up():
    model = build()
    history = train(model, [fake_batch(seed=seed) for seed in range(3)])
    assert all(set(losses) == LOSSES for losses in history)
    assert all(math.isfinite(value) for losses in history for value in losses.values())
    assert [losses["loss_pseudo"] > 0 for losses in history] == [False, True, True]
    # The bank is empty before the second step, and full after it.
    assert [losses["loss_paste"] > 0 for losses in history] == [False, False, True]
    assert 0 < model.logged["pseudo_foreground"] <= 1
    assert model.iterations.item() == 3
    for part in (model.mask_branch, model.detector.head.extra, model.backbone.bottom_up):
        assert all(p.grad.isfinite().all() for p in part.parameters())
        assert sum(p.grad.abs().sum() for p in part.parameters()) > 0


def test_without_copy_paste():
    model = build(config(copy_paste=None, paste_loss=None))
    history = train(model, [fake_batch()] * 2)
    assert all(set(losses) == BOXES | {"loss_pseudo"} for losses in history)


@pytest.mark.parametrize("paste_into", ["copy", "batch"])
def test_images_without_objects_train(paste_into):
    model = build(config(paste_into=paste_into))
    mixed = fake_batch()
    mixed[:1] = without_objects([mixed[0]])
    history = train(model, [fake_batch(), fake_batch(), without_objects(fake_batch()), mixed])
    assert all(set(losses) == LOSSES for losses in history)
    assert all(math.isfinite(value) for losses in history for value in losses.values())
    # Into the batch, objects are pasted where there was none.
    assert (history[2]["loss_pseudo"] > 0) == (paste_into == "batch")
    assert history[3]["loss_pseudo"] > 0
    assert all(p.grad is not None for p in model.parameters())


def test_weights_and_ramp_of_the_pseudo_loss():
    """The ramp counts from the first step: half of it is over in the second of four."""
    values = {}
    for name, settings in (
        ("plain", {}),
        ("double", {"pseudo_weight": 1.0}),
        ("ramp", {"pseudo_ramp_iters": 4}),
        ("later", {"warmup_iters": 2}),
    ):
        model = build(config(copy_paste=None, paste_loss=None, **settings))
        values[name] = train(model, [fake_batch()] * 2)[1]["loss_pseudo"]
    assert values["double"] == pytest.approx(2 * values["plain"], rel=1e-4)
    assert values["ramp"] == pytest.approx(values["plain"] / 2, rel=1e-4)
    assert values["later"] == 0


def test_teacher_draws_the_masks_of_the_students_positives():
    """Of equal weights and one positive an object, the instance maps are the student's own masks."""
    model = build(config(positives_per_image=2))
    model.iterations += 1
    model.teacher.follow()
    with EventStorage():
        _, seen = model.training_pass(fake_batch())
    taught = model.teach(seen)
    assert taught.gt_inds.tolist() == [0, 1, 2, 3]
    assert torch.allclose(taught.instance_maps, seen.logits.sigmoid(), atol=1e-5)
    assert taught.teacher_features.shape == (2, 16, *seen.logits.shape[1:])
    assert not taught.instance_maps.requires_grad


def test_positives_with_better_boxes_weigh_more():
    """The predicted boxes get better from the first positive to the last."""
    model = build(config(positives_per_image=None))
    model.teacher.follow()
    with EventStorage():
        _, seen = model.training_pass(fake_batch(1))
    (found,) = model.detector.positives(model.teacher["head"](list(seen.features.values())[:4]), seen.targets)
    corners, sizes = found.gt_boxes.tensor[:, :2], found.gt_boxes.tensor[:, 2:] - found.gt_boxes.tensor[:, :2]
    found.pred_boxes = Boxes(torch.cat([corners, corners + torch.linspace(0.1, 1, len(found))[:, None] * sizes], dim=1))
    model.detector.positives = lambda predictions, targets: [found]
    masks = model.mask_logits(seen.images, model.teacher["mask_branch"](seen.features), [found]).sigmoid()
    for mu in (0.0, 100.0):
        model.labeler.mu = mu
        maps = model.teach(seen).instance_maps
        for row in range(2):
            own = (found.gt_inds == row).nonzero()[:, 0]
            assert len(own) > 1
            assert torch.allclose(maps[row], masks[own].mean(dim=0) if mu == 0 else masks[own[-1]], atol=1e-4)


def test_prototypes_learn_before_the_warm_up_is_over():
    model = build(config(warmup_iters=100))
    before = model.labeler.prototypes.vectors.clone()
    train(model, [fake_batch()])
    moved = (model.labeler.prototypes.vectors - before).abs().sum(dim=(1, 2)) > 1e-4
    assert moved.tolist() == [True, True, True]


def test_teacher_gets_no_gradient_and_is_no_parameter():
    model = build()
    names = [name for name, _ in model.named_parameters()]
    train(model, [fake_batch()] * 2)
    assert names == [name for name, _ in model.named_parameters()]
    assert not any("teacher" in name for name in names)
    for part in ("backbone", "head", "mask_branch"):
        assert all(p.grad is None and not p.requires_grad for p in model.teacher[part].parameters())


def test_autocast():
    histories = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            histories.append(train(build(), [fake_batch()] * 2))
    for name, value in histories[0][-1].items():
        assert histories[1][-1][name] == pytest.approx(value, rel=0.2, abs=1e-3)


def test_no_bit_of_a_mask_reaches_a_loss_or_a_weight():
    """Masks that the ground truth holds all the same: of the boxes, empty, none."""
    runs = []
    train(build(), [fake_batch()] * 3)  # the compiled focal loss rounds otherwise in its first calls
    for change in (lambda x: None, lambda x: x.gt_masks.tensor.zero_(), lambda x: x.remove("gt_masks")):
        batches = [fake_batch(seed=seed) for seed in range(3)]
        for item in (item for batch in batches for item in batch):
            change(item["instances"])
        model = build()
        runs.append((train(model, batches), model.state_dict()))
    assert runs[0][0][-1]["loss_paste"] > 0
    for history, state in runs[1:]:
        assert history == runs[0][0]
        assert all(torch.equal(value, runs[0][1][name]) for name, value in state.items())


class TestCheckpoints:
    def test_resumed_training_goes_on_in_the_middle_of_the_ramp(self, tmp_path):
        """Without pasting, whose bank starts empty. Teacher, prototypes and counters are those of one run."""
        node = config(copy_paste=None, paste_loss=None, pseudo_ramp_iters=6)
        batches = [fake_batch(seed=seed) for seed in range(5)]
        whole = build(node)
        expected = train(whole, batches)
        first = build(node)
        assert train(first, batches[:3]) == expected[:3]
        Checkpointer(first, str(tmp_path)).save("model")
        second = build(node, seed=1)
        Checkpointer(second).load(str(tmp_path / "model.pth"))
        assert train(second, batches[3:]) == expected[3:]
        assert expected[3]["loss_pseudo"] > 0
        state = second.state_dict()
        assert state["iterations"] == 5
        assert any(name.startswith("teacher.backbone.") for name in state)
        for name, value in whole.state_dict().items():
            assert torch.equal(state[name], value), name

    @pytest.mark.parametrize("partial_weights", [True, False])
    def test_a_teacher_of_weights_without_one_is_the_loaded_student(self, tmp_path, partial_weights):
        """Of BoxInst in full, as for an evaluation; or of a backbone alone."""
        weights = tiny_condinst(recipe="boxinst", seed=3).state_dict()
        if partial_weights:
            weights = {name: value for name, value in weights.items() if "backbone" in name}
        torch.save({"model": weights}, tmp_path / "weights.pth")
        model = build()
        load_weights(model, str(tmp_path / "weights.pth"), partial=partial_weights)
        assert not model.teacher.started
        model.teacher.follow()
        for name, value in model.teacher["backbone"].state_dict().items():
            assert torch.equal(value, weights[f"detector.backbone.{name}"])
        for name, value in model.teacher["mask_branch"].state_dict().items():
            assert torch.equal(value, model.mask_branch.state_dict()[name])

    def test_weights_of_other_classes(self, tmp_path):
        other = config()
        other.detector.num_classes = 5
        trained, model = build(other), build()
        train(trained, [fake_batch()])
        Checkpointer(trained, str(tmp_path)).save("model")
        load_weights(model, str(tmp_path / "model.pth"), partial=True)
        assert model.labeler.prototypes.vectors.shape == (3, 10, 16)
        assert set(train(model, [fake_batch()])[0]) == LOSSES


class TestPasting:
    def test_only_pasted_objects_are_taught(self):
        """The loss of the second pass by hand, from what the model was given: a pass of everything has it too."""
        model, passes = build(config(positives_per_image=1000)), []
        train(model, [fake_batch(seed=seed) for seed in range(2)])
        training_pass = model.training_pass
        model.training_pass = lambda *args, **kwargs: passes.append(training_pass(*args, **kwargs)) or passes[-1]
        losses = step(model, fake_batch(seed=5))
        assert len(passes) == 2
        detector_losses, second = passes[1]
        assert detector_losses == {}
        with EventStorage():
            _, whole = training_pass(second.inputs)
        pasted = torch.cat([x.gt_pasted for x in whole.truth])[whole.gt_inds]
        assert pasted.any()
        assert not pasted.all()
        assert torch.equal(second.gt_inds, whole.gt_inds[pasted])
        torch.testing.assert_close(second.logits, whole.logits[pasted])
        masks = torch.cat([x.gt_masks.tensor[:, 1::2, 1::2] for x in whole.truth])[whole.gt_inds]
        expected = model.paste_loss(whole.logits[pasted], masks[pasted], torch.ones_like(masks[pasted]))
        assert losses["loss_paste"].item() == pytest.approx(expected.item(), rel=1e-5)

    def test_into_the_batch(self):
        """The pasted images take the place of the given ones: one pass, with pasted objects in it."""
        model, passes = build(config(paste_into="batch")), []
        training_pass = model.training_pass
        model.training_pass = lambda batch: passes.append(training_pass(batch)) or passes[-1]
        history = train(model, [fake_batch(seed=seed) for seed in range(3)])
        assert len(passes) == 3
        assert [losses["loss_paste"] > 0 for losses in history] == [False, False, True]
        third = passes[2][1]
        given = fake_batch(seed=2)
        assert any(not torch.equal(a["image"], b["image"]) for a, b in zip(third.inputs, given, strict=True))
        # Boxes and colors of an object are taught where it can be seen.
        regions = model.supervision.object_maps(third.truth[0], (32, 48), 2)
        assert torch.equal(regions, third.truth[0].gt_masks.tensor[:, 1::2, 1::2])

    def test_given_batches_stay_as_they_are(self):
        model, batches = build(config(paste_into="batch")), [fake_batch(seed=seed) for seed in range(3)]
        before = copy.deepcopy(batches)
        train(model, batches)
        for item, old in zip((x for b in batches for x in b), (x for b in before for x in b), strict=True):
            assert torch.equal(item["image"], old["image"])
            assert set(item["instances"].get_fields()) == set(old["instances"].get_fields())
            assert torch.equal(item["instances"].gt_boxes.tensor, old["instances"].gt_boxes.tensor)

    def test_images_of_different_sizes(self):
        model = build()
        batches = [[fake_batch(1, seed=s)[0], fake_batch(1, height=80, width=80, seed=s)[0]] for s in range(3)]
        assert train(model, batches)[-1]["loss_paste"] > 0


class TestInference:
    def outputs(self, model):
        model.eval().detector.test_score_thresh = 0.0
        with torch.no_grad():
            return model(fake_batch(1))[0]["instances"]

    def test_by_student_or_teacher(self):
        """A teacher of momentum 1 stays what the student was at first."""
        fresh = build()
        expected = self.outputs(fresh)
        model = build(config(teacher_momentum=1.0))
        model.teacher.follow()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.01 * torch.randn_like(parameter)
        student = self.outputs(model)
        model.test_with_teacher = True
        teacher = self.outputs(model)
        assert torch.equal(teacher.scores, expected.scores)
        assert torch.equal(teacher.pred_masks, expected.pred_masks)
        assert not torch.equal(student.scores, expected.scores)
        model.test_with_teacher = False
        assert torch.equal(self.outputs(model).scores, student.scores)
        assert len(student) > 0

    def test_no_teacher_to_predict_with(self):
        with pytest.raises(CheckpointError, match="test_with_teacher"):
            self.outputs(build(config(test_with_teacher=True)))


def released():
    node = config()
    full = get_config("SIM/sim_released_r50_fpn_coco_1x").model
    for name in ("pseudo_loss", "paste_loss", "pseudo_weight", "teacher_head_on_student", "feature_upsampling"):
        node[name] = full[name]
    node.labeler = copy.deepcopy(full.labeler)
    node.labeler.confident = 0.4
    node.labeler.thresholds.update(low=0.1, high=(0.3, 0.6), confident=0.4)
    node.supervision.feature_similarity = True
    node.paste_into = full.paste_into
    return node


def test_released_settings():
    full = get_config("SIM/sim_released_r50_fpn_coco_1x").model
    assert (full.labeler.mu, full.labeler.prototypes.temperature, full.pseudo_ramp_iters) == (0, 1, 270000)
    assert (full.copy_paste.share, full.copy_paste.bank.capacity, full.pseudo_weight) == (0.5, 50, 0.3)
    history = train(build(released()), [fake_batch(seed=seed) for seed in range(3)])
    assert all(set(losses) == LOSSES for losses in history)
    assert history[2]["loss_pseudo"] > 0
    assert history[2]["loss_paste"] > 0


def test_features_of_the_teacher_part_neighbors_of_one_color():
    """Features 1 apart: similarity e^-1 instead of 1, below a threshold of 0.4."""
    batch = fake_batch(1)
    batch[0]["image"] = torch.full((3, 64, 96), 90, dtype=torch.uint8)
    model = build()
    model.teacher.follow()
    with EventStorage():
        _, seen = model.training_pass(batch)
    taught = model.teach(seen)
    taught.teacher_features.zero_()
    taught.teacher_features[:, 0, :, 24:] = 1
    plain = model.supervision.color_similarity(taught)
    model.supervision.feature_similarity = True
    parted = model.supervision.color_similarity(taught)
    assert plain[0, 4, 10, 20:26].tolist() == [1] * 6
    assert parted[0, 4, 10, 20:26].tolist() == pytest.approx([1, 1, math.exp(-1), math.exp(-1), 1, 1])


@pytest.mark.parametrize(
    "settings",
    [{"paste_into": "it"}, {"feature_upsampling": "nearest"}, {"paste_loss": None}],
    ids=lambda x: next(iter(x)),
)
def test_mistakes(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        build(config(**settings))


@pytest.mark.parametrize("name", ["sim_r50_fpn_coco_1x", "sim_r101_fpn_coco_3x", "sim_narrow_fpn_occshapes_quick"])
def test_prototypes_follow_the_model(name):
    node = get_config(f"SIM/{name}").model
    node.detector.num_classes = 7
    node.mask_branch.out_channels = 12
    with torch.device("meta"):
        model = instantiate(node)
    assert model.labeler.prototypes.vectors.shape == (7, 10, 12)


def _train_on_rank(rank, meeting_file, batches, results):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting_file}", rank=rank, world_size=2)
    torch.manual_seed(rank)  # choices of pasting differ
    model = build(seed=0)
    wrapped = DistributedDataParallel(model)
    history = []
    optimizer = torch.optim.SGD(wrapped.parameters(), 0.01)
    for batch in (batches[rank], batches[rank], batches[rank], batches[1]):
        optimizer.zero_grad()
        with EventStorage():
            losses = wrapped(batch)
        sum(losses.values()).backward()
        optimizer.step()
        history.append({name: value.item() for name, value in losses.items()})
    state = model.state_dict()
    shared = {name: value for name, value in state.items() if "running" not in name and "tracked" not in name}
    results[rank] = history, {name: value.double().sum().item() for name, value in shared.items()}
    dist.destroy_process_group()


@pytest.mark.slow
def test_a_process_without_objects_keeps_in_step(tmp_path):
    """The other one pastes from its third step on: weights, teachers and prototypes are equal at the end."""
    batches = [fake_batch(), without_objects(fake_batch())]
    with multiprocessing.Manager() as manager:
        results = manager.dict()
        multiprocessing.start_processes(
            _train_on_rank, args=(str(tmp_path / "meeting"), batches, results), nprocs=2, start_method="spawn"
        )
        (first, weights), (second, other_weights) = results[0], results[1]
    assert all(set(losses) == LOSSES for losses in (*first, *second))
    assert all(math.isfinite(value) for losses in (*first, *second) for value in losses.values())
    assert first[2]["loss_paste"] > 0
    assert first[2]["loss_pseudo"] > 0
    assert second[2]["loss_paste"] == second[2]["loss_pseudo"] == 0
    assert weights == other_weights
    assert any(name.startswith("teacher.") for name in weights)
    assert "labeler.prototypes.vectors" in weights
