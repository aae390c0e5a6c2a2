import numpy as np
import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch import fcos as detectron2_fcos
from detectron2.modeling.meta_arch.retinanet import RetinaNet, RetinaNetHead
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from instseg_d2.engine.predictor import Predictor
from instseg_d2.modeling.meta_arch.detect_then_segment import match_regions
from instseg_d2.testing import (
    fake_batch,
    fake_instances,
    tiny_fcos_mask,
    tiny_fcos_mask_config,
    train_on_ranks,
    without_objects,
)

LOSSES = {"loss_fcos_cls", "loss_fcos_loc", "loss_fcos_ctr", "loss_mask"}
MATCHER = Matcher([0.5], [0, 1])


def step(model, batch):
    with EventStorage():
        losses = model(batch)
    sum(losses.values()).backward()
    return losses


def spy_on_regions(model):
    seen = []
    model.mask_head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1]))
    return seen


def found(boxes, size=(64, 96)):
    boxes = torch.tensor(boxes).reshape(-1, 4)
    return Instances(
        size,
        pred_boxes=Boxes(boxes),
        scores=torch.ones(len(boxes)),
        pred_classes=torch.zeros(len(boxes), dtype=torch.int64),
    )


def test_boxes_that_overlap_an_object_by_half_become_regions_with_its_fields():
    truth = fake_instances(32, 32, [[0, 0, 8, 8], [16, 16, 32, 32]], [4, 7])
    truth.gt_ids = torch.tensor([11, 22])
    truth.gt_has_mask = torch.tensor([True, False])
    # IoU 1, exactly 1/2 (of the second), and less than 1/2 (of the first).
    boxes = Boxes(torch.tensor([[0.0, 0, 8, 8], [16, 16, 32, 24], [0, 0, 8, 3.9]]))
    regions = match_regions(boxes, truth, MATCHER, limit=10)
    assert regions.proposal_boxes.tensor.tolist() == boxes.tensor[:2].tolist()
    assert regions.gt_classes.tolist() == [4, 7]
    assert regions.gt_ids.tolist() == [11, 22]
    assert regions.gt_has_mask.tolist() == [True, False]
    assert regions.gt_masks.tensor.sum(dim=(1, 2)).tolist() == [64, 256]


def test_the_limit_draws_among_the_foreground():
    truth = fake_instances(32, 32, [[0, 0, 8, 8]])
    boxes = Boxes(torch.tensor([[16.0, 16, 24, 24]] * 5 + [[0.0, 0, 8, 8]] * 5))
    regions = match_regions(boxes, truth, MATCHER, limit=3)
    assert regions.proposal_boxes.tensor.tolist() == [[0, 0, 8, 8]] * 3


def test_no_object_no_region():
    truth = fake_instances(32, 32, [])
    regions = match_regions(Boxes(torch.tensor([[0.0, 0, 8, 8]])), truth, MATCHER, limit=3)
    assert len(regions) == 0


def perfect_predictions(model, images, levels, truth):
    """What the FCOS head would say if it knew: exact deltas, in strides, and certain scores, at positives alone."""
    fcos = model.detector
    anchors = fcos.anchor_generator(levels)
    targets = fcos.assign(anchors, truth)
    sizes = [level.shape[-2:] for level in levels]
    maps = [[], [], []]
    start = 0
    for boxes, (height, width) in zip(anchors, sizes, strict=True):
        end = start + height * width
        matched = targets.boxes[:, start:end]
        deltas = torch.stack([fcos.box2box_transform.get_deltas(boxes.tensor, x) for x in matched])
        positive = targets.labels[:, start:end] != fcos.num_classes
        logits = torch.where(positive, 9.0, -9.0)
        classes = torch.full((len(truth), len(boxes), fcos.num_classes), -9.0)
        classes[..., 0] = logits
        for kind, values in zip(maps, (classes, deltas, logits[..., None]), strict=True):
            kind.append(values.transpose(1, 2).unflatten(2, (height, width)).contiguous())
        start = end
    return maps


def test_perfect_outputs_of_the_head_match_their_objects():
    # Without the stride a perfect box has IoU 1 / stride^2 with its object, and only true boxes are left.
    model, batch = tiny_fcos_mask(), fake_batch()
    truth = [item["instances"] for item in batch]
    images = model.preprocess_image(batch)
    features = model.backbone(images.tensor)
    levels = [features[name] for name in model.detector.head_in_features]
    detections = model.detect(images, levels, perfect_predictions(model, images, levels, truth))
    assert all(len(x) == 2 for x in detections)
    regions = model.sample_regions([x.pred_boxes for x in detections], truth)
    for x, y in zip(regions, truth, strict=True):
        ordered = x.proposal_boxes.tensor[:2].sort(dim=0).values
        assert torch.allclose(ordered, y.gt_boxes.tensor.sort(dim=0).values, atol=1e-3)
        assert len(x) == 4


def test_detections_and_true_boxes_train_the_mask_head():
    model, batch = tiny_fcos_mask(), fake_batch()
    seen = spy_on_regions(model)
    # One detection near the first object, one near nothing, one that sticks out of the image and matches the second.
    boxes = [[9.0, 8, 40, 40], [60, 0, 90, 10], [30, 20, 80, 300]]
    model.detector.forward_inference = lambda *args: [found(boxes) for _ in batch]
    losses = step(model, batch)
    assert set(losses) == LOSSES
    for regions in seen[0]:
        assert regions.proposal_boxes.tensor.tolist() == [
            [9, 8, 40, 40],
            [30, 20, 80, 64],
            [8, 8, 40, 40],
            [30, 20, 80, 60],
        ]
        assert regions.gt_boxes.tensor[:, 0].tolist() == [8, 30, 8, 30]
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_gt_boxes_only_never_decodes():
    model, batch = tiny_fcos_mask(), fake_batch()
    model.gt_boxes_only = True
    model.detector.forward_inference = None
    seen = spy_on_regions(model)
    assert set(step(model, batch)) == LOSSES
    for regions, item in zip(seen[0], batch, strict=True):
        assert torch.equal(regions.proposal_boxes.tensor, item["instances"].gt_boxes.tensor)


def test_regions_per_image_is_a_bound():
    model = tiny_fcos_mask()
    model.regions_per_image = 1
    seen = spy_on_regions(model)
    step(model, fake_batch())
    assert [len(x) for x in seen[0]] == [1, 1]


def test_broken_and_empty_boxes_are_dropped():
    model, batch = tiny_fcos_mask(), fake_batch(1)
    images = model.preprocess_image(batch)
    boxes = [[float("nan"), 0, 8, 8], [0, 0, float("inf"), 8], [100.0, 0, 120, 8], [4, 4, 4, 20], [-5, -5, 10, 10]]
    model.detector.forward_inference = lambda *args: [found(boxes)]
    (detections,) = model.detect(images, [], [])
    assert detections.pred_boxes.tensor.tolist() == [[0, 0, 10, 10]]


@pytest.mark.parametrize("num_classes", [1, 3])
def test_decoding_leaves_the_predictions_to_the_losses(num_classes):
    # detectron2's own FCOS applies sigmoids in place.
    config = tiny_fcos_mask_config(num_classes)
    config.detector._target_ = detectron2_fcos.FCOS
    config.detector.head._target_ = detectron2_fcos.FCOSHead
    model = instantiate(config)
    losses = step(model, fake_batch(num_classes=num_classes))
    assert set(losses) == LOSSES
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def retinanet_config():
    config = tiny_fcos_mask_config()
    detector = config.detector
    config.detector = L(RetinaNet)(
        backbone=detector.backbone,
        head=L(RetinaNetHead)(
            input_shape=[L(ShapeSpec)(channels=16) for _ in range(4)], num_classes=3, conv_dims=[16], num_anchors=3
        ),
        head_in_features=detector.head_in_features,
        anchor_generator=L(DefaultAnchorGenerator)(
            sizes=[[12], [24], [48], [96]], aspect_ratios=[0.5, 1.0, 2.0], strides=[4, 8, 16, 32]
        ),
        box2box_transform=L(Box2BoxTransform)(weights=[1.0, 1.0, 1.0, 1.0]),
        anchor_matcher=L(Matcher)(thresholds=[0.4, 0.5], labels=[0, -1, 1], allow_low_quality_matches=True),
        num_classes=3,
        pixel_mean=detector.pixel_mean,
        pixel_std=detector.pixel_std,
    )
    return config


def test_retinanet_detects_as_well():
    torch.manual_seed(0)
    model = instantiate(retinanet_config())
    assert set(step(model, fake_batch())) == {"loss_cls", "loss_box_reg", "loss_mask"}
    model.eval().detector.test_score_thresh = 0.0
    with torch.no_grad():
        output = model(fake_batch(1))[0]["instances"]
    assert output.pred_masks.shape == (len(output), 64, 96)
    assert len(output) > 0


@pytest.mark.parametrize("empty", [[0], [0, 1]])
def test_images_without_objects_train(empty):
    model, batch = tiny_fcos_mask(), fake_batch()
    for index in empty:
        batch[index : index + 1] = without_objects([batch[index]])
    losses = step(model, batch)
    assert set(losses) == LOSSES
    assert all(parameter.grad is not None for parameter in model.parameters())
    if len(empty) == 2:
        assert losses["loss_mask"].item() == 0
        assert all((parameter.grad == 0).all() for parameter in model.mask_head.parameters())


def test_hidden_masks_train_boxes_alone():
    model, batch = tiny_fcos_mask(), fake_batch()
    for item in batch:
        item["instances"].gt_has_mask = torch.tensor([False, False])
    losses = step(model, batch)
    assert losses["loss_mask"].item() == 0
    assert losses["loss_fcos_loc"].item() > 0


def test_no_detections():
    model = tiny_fcos_mask().eval()
    model.detector.test_score_thresh = 1.0
    with torch.no_grad():
        output = model(fake_batch(1))[0]["instances"]
    assert len(output) == 0
    assert output.pred_masks.shape == (0, 64, 96)


def test_results_are_in_pixels_of_the_requested_size():
    model, batch = tiny_fcos_mask().eval(), fake_batch(1)
    model.detector.forward_inference = lambda *args: [found([[8.0, 8, 40, 40]])]
    batch[0].update(height=128, width=192)
    with torch.no_grad():
        output = model(batch)[0]["instances"]
        (raw,) = model.inference(batch, do_postprocess=False)
    assert output.image_size == (128, 192)
    assert output.pred_boxes.tensor.tolist() == [[16, 16, 80, 80]]
    assert output.pred_masks.shape == (1, 128, 192)
    assert output.pred_masks.dtype == torch.bool
    assert raw.pred_boxes.tensor.tolist() == [[8, 8, 40, 40]]
    assert raw.pred_masks.shape == (1, 1, 28, 28)


def test_given_boxes_are_segmented_without_detection():
    model, batch = tiny_fcos_mask().eval(), fake_batch()
    model.detector.forward_inference = lambda *args: [found([[8.0, 8, 40, 40], [0, 0, 20, 20]]) for _ in batch]
    with torch.no_grad():
        detected = model.inference(batch, do_postprocess=False)
        model.detector.forward_inference = None
        given = [Instances(x.image_size, pred_boxes=x.pred_boxes, pred_classes=x.pred_classes) for x in detected]
        again = model.inference(batch, detected_instances=given, do_postprocess=False)
        full_size = model.inference(batch, detected_instances=given)
    for x, y in zip(detected, again, strict=True):
        assert torch.equal(x.pred_masks, y.pred_masks)
    assert full_size[0]["instances"].pred_masks.shape == (2, 64, 96)


def test_autocast_trains_and_predicts():
    model = tiny_fcos_mask()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = step(model, fake_batch())
        model.eval().detector.test_score_thresh = 0.0
        with torch.no_grad():
            (output,) = model.inference(fake_batch(1), do_postprocess=False)
    assert all(value.isfinite() for value in losses.values())
    assert output.pred_boxes.tensor.dtype == torch.float32
    assert len(output) > 0


def test_predictor_takes_it():
    model = tiny_fcos_mask()
    model.detector.test_score_thresh = 0.0
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    output = Predictor(model)(image)["instances"]
    assert output.pred_masks.shape == (len(output), 50, 70)


def test_it_learns_to_segment_rectangles():
    torch.manual_seed(0)
    model = tiny_fcos_mask()
    optimizer, losses = torch.optim.AdamW(model.parameters(), 5e-3), []
    for _ in range(12):
        optimizer.zero_grad()
        losses.append(step(model, fake_batch())["loss_mask"].item())
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.slow
def test_a_process_without_objects_keeps_in_step(tmp_path):
    batches = [fake_batch(), without_objects(fake_batch())]
    (weights, losses), (other_weights, other_losses) = train_on_ranks(tiny_fcos_mask, batches, tmp_path)
    assert torch.equal(weights, other_weights)
    assert set(losses) == set(other_losses) == LOSSES
    assert losses["loss_mask"] > 0
    assert other_losses["loss_mask"] == 0
