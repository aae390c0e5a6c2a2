from functools import partial

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from instseg_d2.engine.predictor import Predictor
from instseg_d2.testing import fake_batch, fake_instances, tiny_solov2, tiny_solov2_config, train_on_ranks

LOSSES = {"loss_category", "loss_mask"}


def step(model, batch):
    with EventStorage() as storage:
        losses = model(batch)
    sum(losses.values()).backward()
    return losses, storage.latest()


def without_objects(batch):
    """As the mapper gives an image without annotations: no masks at all."""
    for item in batch:
        height, width = item["image"].shape[-2:]
        item["instances"] = fake_instances(height, width, [])
        item["instances"].remove("gt_masks")
    return batch


def eager(**settings):
    """In evaluation mode, with thresholds that random weights reach."""
    model = tiny_solov2().eval()
    torch.nn.init.normal_(model.head.category_pred.weight, std=1.0)
    torch.nn.init.normal_(model.head.kernel_pred.weight, std=1.0)
    model.head.category_pred.bias.data.fill_(-1.0)
    model.decoder.score_thresh, model.decoder.nms_score_thresh = 0.2, 0.01
    for name, value in settings.items():
        setattr(model.decoder, name, value)
    return model


def test_the_tiny_model_is_tiny():
    assert sum(parameter.numel() for parameter in tiny_solov2().parameters()) < 100_000


def test_a_training_step_reaches_every_parameter():
    model = tiny_solov2()
    losses, logged = step(model, fake_batch())
    assert set(losses) == LOSSES
    # At the start: masks near 1/2, dice around 1 - 2 A/2 / (A/4 + ... ); three times that.
    assert 0 < losses["loss_mask"] < 3
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert all(p.grad.abs().sum() > 0 for name, p in model.named_parameters() if "bias" not in name)
    assert logged["solov2/positive_cells"][0] > 0
    assert logged["solov2/masks"][0] >= logged["solov2/positive_cells"][0]


def test_losses_by_hand():
    model = tiny_solov2()
    model.mask_loss_weight, model.category_loss_weight = 5.0, 7.0
    truth = [x["instances"] for x in fake_batch()]
    targets = [model.assigner.assign(x, num_classes=3, stride=4, mask_size=(16, 24)) for x in truth]
    cells = [number**2 for number in model.assigner.grid_numbers]
    # All classes at probability 1/2, all masks too.
    categories = [torch.zeros(2, 3, side, side) for side in model.assigner.grid_numbers]
    kernels = [torch.zeros(2, 16, side, side) for side in model.assigner.grid_numbers]
    with EventStorage():
        losses = model.losses((categories, kernels, torch.rand(2, 16, 16, 24)), targets)
    positive = sum((target.labels != 3).sum().item() for target in targets)
    log2, items = 0.6931472, 2 * 3 * sum(cells)
    focal = (0.25 * positive + 0.75 * (items - positive)) * 0.25 * log2
    assert losses["loss_category"].item() == pytest.approx(7 * focal / (positive + 1), rel=1e-5)
    areas = torch.cat([target.masks[target.objects].sum(dim=(1, 2)) for target in targets]).double()
    dice = 1 - areas / (16 * 24 / 4 + areas + 0.002)
    assert losses["loss_mask"].item() == pytest.approx(5 * dice.mean().item(), rel=1e-5)


def test_an_image_without_objects_trains_with_the_same_losses():
    model = tiny_solov2()
    losses, _ = step(model, without_objects(fake_batch()))
    assert set(losses) == LOSSES
    assert losses["loss_mask"] == 0
    assert losses["loss_category"] > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    half = fake_batch()
    half[0] = without_objects(half[:1])[0]
    assert step(tiny_solov2(), half)[0]["loss_mask"] > 0


def test_hidden_masks_train_classes_alone():
    batch = fake_batch()
    for item in batch:
        item["instances"].gt_has_mask = torch.tensor([False, False])
    losses, logged = step(tiny_solov2(), batch)
    assert losses["loss_mask"] == 0
    assert logged["solov2/positive_cells"][0] > 0


def test_one_object_and_three_hundred_and_specks():
    one = fake_batch(images=1)
    one[0]["instances"] = one[0]["instances"][:1]
    assert step(tiny_solov2(), one)[0]["loss_mask"] > 0
    crowd = fake_batch(images=1)
    corners = torch.rand(300, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([80.0, 50.0])
    boxes = torch.cat([corners, corners + 14], dim=1).round()
    crowd[0]["instances"] = fake_instances(64, 96, boxes.tolist(), [index % 3 for index in range(300)])
    model = tiny_solov2()
    model.masks_per_image = 50
    losses, logged = step(model, crowd)
    assert logged["solov2/masks"][0] == 50
    assert all(loss.isfinite() for loss in losses.values())
    specks = fake_batch(images=1)
    specks[0]["instances"] = fake_instances(64, 96, [[8, 8, 9, 9], [40, 40, 41, 42]], [0, 1])
    losses, logged = step(tiny_solov2(), specks)
    assert logged["solov2/positive_cells"][0] == 2
    assert losses["loss_mask"] == 0


def test_detections_have_masks_at_the_size_of_the_output_and_tight_boxes():
    inputs = fake_batch()
    for item in inputs:
        item.update(height=100, width=140)
    results = eager()(inputs)
    assert all(len(result["instances"]) > 0 for result in results)
    for found in (result["instances"] for result in results):
        assert found.image_size == (100, 140)
        assert found.pred_masks.shape == (len(found), 100, 140)
        assert found.pred_masks.dtype == torch.bool
        assert (found.scores.diff() <= 0).all()
        for mask, box in zip(found.pred_masks, found.pred_boxes.tensor.long().tolist(), strict=True):
            rows, columns = mask.nonzero(as_tuple=True)
            assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_an_image_gets_the_same_detections_alone_and_beside_a_larger_one():
    model = eager()
    small = {"image": fake_batch(1, 64, 96)[0]["image"]}
    large = {"image": fake_batch(1, 64, 96, seed=1)[0]["image"]}
    alone, together = model([small])[0]["instances"], model([small, large])[0]["instances"]
    assert torch.equal(alone.pred_masks, together.pred_masks)
    # A padded one is seen by other cells, but its masks lie in its own pixels.
    found = model([small, {"image": fake_batch(1, 128, 160)[0]["image"]}])[0]["instances"]
    assert found.pred_masks.shape[1:] == (64, 96)
    assert len(found) > 0


def test_the_limit_of_instances():
    assert len(eager(max_per_image=3)(fake_batch(images=1))[0]["instances"]) == 3


def test_untrained_weights_find_nothing():
    found = tiny_solov2().eval()(fake_batch(images=1))[0]["instances"]
    assert len(found) == 0
    assert found.pred_masks.shape == (0, 64, 96)


def test_without_postprocessing_masks_stay_on_the_mask_features():
    model, inputs = eager(), fake_batch(images=1, height=60, width=90)
    raw = model.inference(inputs, do_postprocess=False)[0]
    done = model.inference(inputs)[0]["instances"]
    assert raw.image_size == (60, 90)
    assert raw.pred_masks.shape == (len(raw), 16, 24)
    assert raw.pred_masks.dtype == torch.float32
    # Masks may vanish when they are interpolated, but none grows by more than half a cell.
    places = [raw.scores.tolist().index(score) for score in done.scores.tolist()]
    assert len(places) > 10
    outer, inner = raw.pred_boxes.tensor[places], done.pred_boxes.tensor
    assert (inner[:, :2] >= outer[:, :2] - 2).all()
    assert (inner[:, 2:] <= outer[:, 2:] + 2).all()


def test_given_boxes_are_segmented_in_their_order():
    model, inputs = eager(), fake_batch(images=2)
    inputs[0].update(height=128, width=192)
    given = [
        Instances((64, 96), pred_boxes=Boxes([[8.0, 8, 40, 40], [30, 20, 80, 60]]), pred_classes=torch.tensor([2, 0])),
        Instances((64, 96), pred_boxes=Boxes(torch.zeros(0, 4)), pred_classes=torch.zeros(0, dtype=torch.int64)),
    ]
    first, second = (result["instances"] for result in model.inference(inputs, detected_instances=given))
    assert first.pred_classes.tolist() == [2, 0]
    assert first.pred_boxes.tensor.tolist() == [[16, 16, 80, 80], [60, 40, 160, 120]]
    assert first.pred_masks.shape == (2, 128, 192)
    assert second.pred_masks.shape == (0, 64, 96)
    swapped = [given[0][torch.tensor([1, 0])], given[1]]
    again = model.inference(inputs, detected_instances=swapped)[0]["instances"]
    assert torch.equal(again.pred_masks.flip(0), first.pred_masks)


def test_training_and_inference_in_bfloat16():
    model = tiny_solov2()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses, _ = step(model, fake_batch())
        assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
        found = eager()(fake_batch(images=1))[0]["instances"]
    assert len(found) > 0
    assert found.scores.dtype == torch.float32
    exact, _ = step(tiny_solov2(), fake_batch())
    assert all(losses[name].item() == pytest.approx(exact[name].item(), rel=0.05) for name in LOSSES)


def test_the_predictor_runs_it():
    predictor = Predictor(eager())
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    assert predictor(image)["instances"].pred_masks.shape[1:] == (50, 70)


def test_settings_come_from_the_config():
    config = tiny_solov2_config()
    config.decoder.max_per_image = 7
    config.assigner.grid_numbers = [6, 5, 4, 3]
    model = instantiate(config)
    assert model.decoder.max_per_image == 7
    assert model.head.grid_numbers == model.assigner.grid_numbers == [6, 5, 4, 3]


@pytest.mark.slow
def test_it_learns_to_segment_rectangles():
    model, batch = tiny_solov2(), fake_batch()
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    for _ in range(120):
        optimizer.zero_grad()
        losses, _ = step(model, batch)
        optimizer.step()
    assert losses["loss_mask"] < 0.6
    model.eval()
    for item, result in zip(batch, model(batch), strict=True):
        found, truth = result["instances"], item["instances"]
        best = found[found.scores > 0.3]
        assert sorted(best.pred_classes.tolist()) == sorted(truth.gt_classes.tolist())
        for index in range(len(truth)):
            own = best.pred_masks[best.pred_classes == truth.gt_classes[index]][0]
            target = truth.gt_masks.tensor[index]
            assert (own & target).sum() / (own | target).sum() > 0.7


@pytest.mark.slow
def test_a_process_without_objects_keeps_in_step(tmp_path):
    batches = [fake_batch(), without_objects(fake_batch())]
    (weights, losses), (other_weights, other_losses) = train_on_ranks(partial(tiny_solov2), batches, tmp_path)
    assert torch.equal(weights, other_weights)
    assert set(losses) == set(other_losses) == LOSSES
    assert losses["loss_mask"] > 0
    assert other_losses["loss_mask"] == 0
