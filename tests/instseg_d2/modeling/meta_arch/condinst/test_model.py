"""CondInst as a whole, with either supervision: training, inference, given boxes, nasty input, two processes."""

import math

import numpy as np
import pytest
import torch
import torch.distributed as dist
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import multiprocessing
from torch.nn.parallel import DistributedDataParallel

from instseg_d2.engine.predictor import Predictor
from instseg_d2.model_zoo import get_config
from instseg_d2.modeling.meta_arch.condinst.branch import SemanticHead
from instseg_d2.testing import (
    TINY_CHANNELS,
    fake_batch,
    fake_instances,
    tiny_condinst,
    tiny_condinst_config,
    without_objects,
)

DETECTOR = {"loss_fcos_cls", "loss_fcos_loc", "loss_fcos_ctr"}
LOSSES = {"condinst": DETECTOR | {"loss_mask"}, "boxinst": DETECTOR | {"loss_prj", "loss_pairwise"}}
MASKS = {"condinst": "loss_mask", "boxinst": "loss_prj"}
BOTH = pytest.mark.parametrize("recipe", list(LOSSES))


def step(model, batch):
    with EventStorage():
        losses = model(batch)
    sum(losses.values()).backward()
    return losses


def detecting(model, threshold=0.0):
    """Untrained boxes have no size: here they reach two strides to each side."""
    model.eval().detector.test_score_thresh = threshold
    with torch.no_grad():
        model.detector.head.bbox_pred.bias.fill_(2.0)
    return model


@BOTH
def test_losses_reach_every_parameter(recipe):
    model = tiny_condinst(recipe=recipe)
    losses = step(model, fake_batch())
    assert set(losses) == LOSSES[recipe]
    assert losses[MASKS[recipe]].item() > 0.1
    for part in (model.mask_branch, model.detector.head.extra, model.backbone.bottom_up):
        assert all(p.grad.isfinite().all() for p in part.parameters())
        assert sum(p.grad.abs().sum() for p in part.parameters()) > 0


@BOTH
@pytest.mark.parametrize("empty", [[0], [0, 1]])
def test_images_without_objects_train(recipe, empty):
    model, batch = tiny_condinst(recipe=recipe), fake_batch()
    for index in empty:
        batch[index : index + 1] = without_objects([batch[index]])
    losses = step(model, batch)
    assert set(losses) == LOSSES[recipe]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert (losses[MASKS[recipe]].item() == 0) == (len(empty) == 2)


def test_hidden_masks_train_boxes_alone():
    model, batch = tiny_condinst(), fake_batch()
    for item in batch:
        item["instances"].gt_has_mask = torch.tensor([False, False])
    losses = step(model, batch)
    assert losses["loss_mask"].item() == 0
    assert losses["loss_fcos_loc"].item() > 0
    assert all(p.grad is not None for p in model.parameters())


def test_box_supervision_needs_no_masks_in_the_ground_truth():
    losses = []
    for drop in (False, True):
        model, batch = tiny_condinst(recipe="boxinst"), fake_batch()
        for item in batch:
            if drop:
                item["instances"].remove("gt_masks")
        losses.append(step(model, batch))
    assert {k: v.item() for k, v in losses[0].items()} == {k: v.item() for k, v in losses[1].items()}


def test_images_of_different_sizes():
    batch = [fake_batch(1)[0], fake_batch(1, height=80, width=80)[0]]
    model = tiny_condinst(recipe="boxinst")
    assert all(value.isfinite() for value in step(model, batch).values())
    outputs = detecting(model)(batch)
    assert [x["instances"].pred_masks.shape[1:] for x in outputs] == [(64, 96), (80, 80)]


@BOTH
def test_autocast_trains_and_predicts(recipe):
    values = []
    for enabled in (False, True):
        model = tiny_condinst(recipe=recipe)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            losses = step(model, fake_batch())
            with torch.no_grad():
                (output,) = detecting(model).inference(fake_batch(1), do_postprocess=False)
        assert all(p.grad.isfinite().all() for p in model.parameters())
        assert output.mask_probabilities.dtype == output.pred_boxes.tensor.dtype == torch.float32
        assert len(output) > 0
        values.append(losses)
    for name, value in values[1].items():
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(values[0][name].item(), rel=0.1)


def test_positives_are_thinned_out():
    config = tiny_condinst_config()
    config.update(max_positives=5)
    seen = []
    model = instantiate(config)
    model.supervision.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    step(model, fake_batch())
    assert len(seen[0].logits) == 5
    assert seen[0].logits.shape[1:] == (32, 48)
    assert seen[0].stride == 2
    config.update(max_positives=None, positives_per_image=2)
    model = instantiate(config)
    model.supervision.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    step(model, fake_batch())
    assert [sorted(x.gt_inds.tolist()) for x in seen[1].positives] == [[0, 1], [0, 1]]


def test_parts_that_do_not_fit():
    config = tiny_condinst_config()
    config.update(max_positives=5, positives_per_image=2)
    with pytest.raises(ValueError, match="exclude each other"):
        instantiate(config)
    config.update(max_positives=None)
    config.detector.keep_locations = False
    with pytest.raises(ValueError, match="keep_locations=True"):
        instantiate(config)


@BOTH
def test_semantic_head(recipe):
    config = tiny_condinst_config(recipe=recipe)
    config.semantic_head = L(SemanticHead)(
        in_feature="p2", in_channels=TINY_CHANNELS, num_classes="${..detector.num_classes}", channels=8
    )
    torch.manual_seed(0)
    model = instantiate(config)
    losses = step(model, fake_batch())
    assert set(losses) == LOSSES[recipe] | {"loss_sem"}
    # Probability 0.01 at first: (0.99 ** 2 * ln 100 + ...) / 4 for each pixel with a class.
    assert losses["loss_sem"].item() == pytest.approx(0.25 * 0.99**2 * math.log(100), rel=0.1)
    assert "loss_sem" in step(model, without_objects(fake_batch()))
    assert "pred_masks" in detecting(model)(fake_batch(1))[0]["instances"].get_fields()


def test_results_are_in_pixels_of_the_requested_size():
    model, batch = detecting(tiny_condinst()), fake_batch(1)
    batch[0].update(height=128, width=192)
    with torch.no_grad():
        output = model(batch)[0]["instances"]
        (raw,) = model.inference(batch, do_postprocess=False)
    assert set(output.get_fields()) == {"pred_boxes", "scores", "pred_classes", "pred_masks"}
    assert output.image_size == (128, 192)
    assert output.pred_masks.shape == (len(output), 128, 192)
    assert output.pred_masks.dtype == torch.bool
    assert raw.mask_probabilities.shape == (len(raw), 32, 48)
    assert len(output) > 0


def test_no_detections():
    with torch.no_grad():
        output = detecting(tiny_condinst(), 1.0)(fake_batch(1))[0]["instances"]
    assert len(output) == 0
    assert output.pred_masks.shape == (0, 64, 96)


def test_broken_weights_give_no_detections_and_no_error():
    model = detecting(tiny_condinst())
    with torch.no_grad():
        model.detector.head.bbox_pred.bias.fill_(math.nan)
        assert len(model(fake_batch(1))[0]["instances"]) == 0


def test_given_boxes_are_segmented_in_their_order():
    """Boxes around a location ask for that location's mask, the one that a detection there has."""
    model, batch = detecting(tiny_condinst()), fake_batch()
    with torch.no_grad():
        detected = model.inference(batch, do_postprocess=False)
        fine = [x[x.fpn_levels == 0][:5] for x in detected]
        assert sum(len(x) for x in fine) > 0
        given = []
        for x in fine:
            corners = torch.cat([x.locations - 9, x.locations + 9], dim=1)
            given.append(Instances(x.image_size, pred_boxes=Boxes(corners), pred_classes=x.pred_classes))
        again = model.inference(batch, detected_instances=given, do_postprocess=False)
        outputs = model.inference(batch, detected_instances=given)
    for x, y, z, before in zip(fine, again, outputs, given, strict=True):
        assert torch.equal(x.locations, y.locations)
        assert torch.allclose(x.mask_probabilities, y.mask_probabilities, atol=1e-6)
        assert z["instances"].pred_masks.shape == (len(before), 64, 96)
        assert set(before.get_fields()) == {"pred_boxes", "pred_classes"}


def test_predictor_takes_it():
    model = detecting(tiny_condinst())
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    output = Predictor(model)(image)["instances"]
    assert output.pred_masks.shape == (len(output), 50, 70)
    assert len(output) > 0


@pytest.mark.parametrize(
    ("name", "channels", "parameters"), [("condinst_r50_fpn_coco_1x", 8, 169), ("boxinst_r101_fpn_coco_3x", 16, 233)]
)
def test_recipes_of_the_papers(name, channels, parameters):
    model = get_config(f"SIM/{name}").model
    with torch.device("meta"):
        built = instantiate(model)
    assert built.detector.head.extra.out_channels == parameters
    assert built.mask_branch.tower[-1].out_channels == channels
    assert built.mask_head.level_sizes.shape == (5,)


class TestLearning:
    def test_masks_get_better(self):
        model = tiny_condinst()
        optimizer, losses = torch.optim.AdamW(model.parameters(), 1e-3), []
        for _ in range(12):
            optimizer.zero_grad()
            losses.append(step(model, fake_batch())["loss_mask"].item())
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        assert losses[-1] < 0.9 * losses[0]

    @pytest.mark.slow
    @BOTH
    def test_masks_of_rectangles_are_found(self, recipe):
        """Bright rectangles on a dark ground; one image by heart, with boxes as well as with masks."""
        config = tiny_condinst_config(1, recipe=recipe)
        if recipe == "boxinst":
            config.supervision.warmup_iters = 1000
        torch.manual_seed(0)
        model, batch = instantiate(config), fake_batch(1, num_classes=1)
        truth = batch[0]["instances"] = fake_instances(64, 96, [[8, 10, 40, 40], [52, 16, 88, 56]])
        batch[0]["image"] = batch[0]["image"] // 12 + 180 * truth.gt_masks.tensor.any(dim=0).to(torch.uint8)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
        for _ in range(90):
            optimizer.zero_grad()
            step(model, batch)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        with torch.no_grad():
            output = model.eval()(batch)[0]["instances"]
        found = output.pred_masks[:, None] & truth.gt_masks.tensor
        union = output.pred_masks[:, None] | truth.gt_masks.tensor
        ious = found.sum(dim=(2, 3)) / union.sum(dim=(2, 3)).clamp(min=1)
        assert (ious[output.scores > 0.3].amax(dim=0) > 0.7).all()


def _train_on_rank(rank, meeting_file, batches, results):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting_file}", rank=rank, world_size=2)
    results[rank] = {}
    for recipe in LOSSES:
        model = DistributedDataParallel(tiny_condinst(recipe=recipe))
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        for batch in (batches[rank], batches[1]):  # no objects on one process, then on both
            optimizer.zero_grad()
            losses = step(model, batch)
            optimizer.step()
            values = {name: value.item() for name, value in losses.items()}
            weights = torch.cat([p.detach().flatten() for p in model.parameters()])
            results[rank] = {**results[rank], (recipe, len(results[rank])): (values, weights.sum().item())}
    dist.destroy_process_group()


@pytest.mark.slow
def test_a_process_without_objects_keeps_in_step(tmp_path):
    batches = [fake_batch(), without_objects(fake_batch())]
    with multiprocessing.Manager() as manager:
        results = manager.dict()
        multiprocessing.start_processes(
            _train_on_rank, args=(str(tmp_path / "meeting"), batches, results), nprocs=2, start_method="spawn"
        )
        first, second = results[0], results[1]
    assert list(first) == list(second)
    for key in first:
        (losses, weights), (others, other_weights) = first[key], second[key]
        assert set(losses) == set(others) == LOSSES[key[0]]
        assert weights == other_weights
        assert math.isfinite(weights)
        assert others[MASKS[key[0]]] == 0
    assert [losses[MASKS[recipe]] > 0 for (recipe, _), (losses, _) in first.items()] == [True, False, True, False]
