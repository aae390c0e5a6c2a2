"""GeneralizedRCNN and ProposalNetwork end to end, on a network of a few thousand weights."""

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    Backbone,
    GeneralizedRCNN,
    ProposalNetwork,
    build_model,
)
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn


class ThreeLevels(Backbone):
    """One strided convolution, then pooled copies of its output."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=4, padding=1)

    def forward(self, x):
        x = self.stem(x).relu()
        levels = {"p2": x}
        for name in ("p3", "p4"):
            x = nn.functional.avg_pool2d(x, 2, ceil_mode=True)
            levels[name] = x
        return levels

    @property
    def size_divisibility(self):
        return 16

    def output_shape(self):
        return {f"p{k}": ShapeSpec(channels=8, stride=2**k) for k in (2, 3, 4)}


if "three_levels_for_rcnn_tests" not in BACKBONE_REGISTRY:
    BACKBONE_REGISTRY._do_register("three_levels_for_rcnn_tests", lambda cfg, input_shape: ThreeLevels())


def config(name="GeneralizedRCNN", **overrides):
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = name
    cfg.MODEL.BACKBONE.NAME = "three_levels_for_rcnn_tests"
    cfg.MODEL.PIXEL_STD = [57.0, 57.0, 58.0]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[8], [16], [32]]
    cfg.MODEL.RPN.IN_FEATURES = ["p2", "p3", "p4"]
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = 40
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 20
    cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2", "p3"]
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 4
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 16
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC = 1
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 16
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 4
    cfg.MODEL.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"
    cfg.MODEL.ROI_MASK_HEAD.NUM_CONV = 1
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 8
    cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION = 4
    cfg.MODEL.MASK_ON = True
    cfg.TEST.DETECTIONS_PER_IMAGE = 5
    cfg.merge_from_list([v for item in overrides.items() for v in item])
    return cfg


def build(*args, **kwargs):
    torch.manual_seed(11)
    return build_model(config(*args, **kwargs))


def inputs(num_objects=(2, 1)):
    generator = torch.Generator().manual_seed(5)
    batch = []
    for n, (height, width) in zip(num_objects, [(40, 56), (48, 32)], strict=True):
        corners = torch.rand(n, 2, generator=generator) * 16
        boxes = torch.cat([corners, corners + 12], dim=1)
        masks = torch.zeros(n, height, width, dtype=torch.bool)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
            mask[y1:y2, x1:x2] = True
        truth = Instances((height, width), gt_boxes=Boxes(boxes), gt_masks=BitMasks(masks))
        truth.gt_classes = torch.arange(n)
        image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
        batch.append({"image": image, "instances": truth})
    return batch


GOLDEN = {
    "loss_cls": 1.609411,
    "loss_box_reg": 0.0001975026,
    "loss_mask": 0.6933071,
    "loss_rpn_cls": 0.6932057,
    "loss_rpn_loc": 0.00677642,
}
LOSSES = ["loss_box_reg", "loss_cls", "loss_mask", "loss_rpn_cls", "loss_rpn_loc"]


def test_training_losses_stay_what_they_are():
    """Golden values: upstream detectron2 gave them for the same seed."""
    model = build()
    torch.manual_seed(12)
    with EventStorage():
        losses = model(inputs())
    assert {k: v.item() for k, v in losses.items()} == pytest.approx(GOLDEN, rel=1e-4)
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("num_objects", [(0, 0), (2, 0)])
def test_images_without_objects(num_objects):
    model = build()
    with EventStorage():
        losses = model(inputs(num_objects))
    assert sorted(losses) == LOSSES
    assert all(value.isfinite() for value in losses.values())
    sum(losses.values()).backward()
    if num_objects == (0, 0):
        assert losses["loss_mask"].item() == losses["loss_box_reg"].item() == 0


def test_detections_have_the_requested_size():
    model = build().eval()
    batch = inputs()
    batch[0].update(height=80, width=56)
    with torch.no_grad():
        first, second = (x["instances"] for x in model(batch))
    assert first.image_size == (80, 56)
    assert second.image_size == (48, 32)
    assert tuple(first.pred_masks.shape[1:]) == (80, 56)
    assert first.pred_masks.dtype == torch.bool
    assert 0 < len(first) <= 5
    assert first.scores.tolist() == sorted(first.scores.tolist(), reverse=True)
    assert first.pred_boxes.tensor[:, 3].max() <= 80
    with torch.no_grad():
        raw = model.inference(batch, do_postprocess=False)
    assert raw[0].image_size == (40, 56)
    assert tuple(raw[0].pred_masks.shape[1:]) == (1, 8, 8)


def test_known_boxes_get_masks():
    model = build().eval()
    boxes = torch.tensor([[2.0, 2, 20, 20], [5, 5, 30, 30]])
    known = Instances((40, 56), pred_boxes=Boxes(boxes.clone()), pred_classes=torch.tensor([0, 3]))
    with torch.no_grad():
        (out,) = model.inference(inputs()[:1], detected_instances=[known])
    assert torch.equal(out["instances"].pred_boxes.tensor, boxes)
    assert out["instances"].pred_classes.tolist() == [0, 3]
    assert tuple(out["instances"].pred_masks.shape) == (2, 40, 56)
    with pytest.raises(AssertionError):
        model.train().inference(inputs())


def test_proposals_may_come_with_the_input():
    full = build()
    model = GeneralizedRCNN(
        backbone=full.backbone,
        proposal_generator=None,
        roi_heads=full.roi_heads,
        pixel_mean=[0.0] * 3,
        pixel_std=[255.0] * 3,
    )
    batch = inputs()
    with pytest.raises(AssertionError):
        model(batch)
    for item in batch:
        item["proposals"] = Instances(item["instances"].image_size, objectness_logits=torch.zeros(1))
        item["proposals"].proposal_boxes = Boxes(torch.tensor([[1.0, 1, 20, 20]]))
    with EventStorage():
        assert sorted(model(batch)) == ["loss_box_reg", "loss_cls", "loss_mask"]
    with torch.no_grad():
        assert len(model.eval()(batch)) == 2


def test_images_are_normalised_and_padded():
    model = build()
    images = model.preprocess_image(inputs())
    assert tuple(images.tensor.shape) == (2, 3, 48, 64)
    assert images.image_sizes == [(40, 56), (48, 32)]
    raw = inputs()[0]["image"].float()
    assert torch.allclose(images.tensor[0, :, :40, :56], (raw - model.pixel_mean) / model.pixel_std)
    assert images.tensor[0, :, 40:].eq(0).all()
    assert not any(name.startswith("pixel") for name in model.state_dict())
    assert model.device.type == "cpu"


def test_mean_and_std_must_match():
    full = build()
    with pytest.raises(AssertionError):
        GeneralizedRCNN(
            backbone=full.backbone,
            proposal_generator=None,
            roi_heads=full.roi_heads,
            pixel_mean=[0.0] * 3,
            pixel_std=[1.0],
        )


def test_pictures_every_period():
    model = build(VIS_PERIOD=4)
    for iteration, expected in ((8, 1), (9, 0)):
        with EventStorage(iteration) as storage:
            model(inputs())
            pictures = [x for x in storage._vis_data if x[0].startswith("Left: GT bounding boxes")]
        assert len(pictures) == expected
        for name, picture, at in pictures:
            assert name == "Left: GT bounding boxes;  Right: Predicted proposals"
            assert tuple(picture.shape) == (3, 40, 112)
            assert at == iteration
    with pytest.raises(AssertionError):
        GeneralizedRCNN(
            backbone=model.backbone,
            proposal_generator=None,
            roi_heads=model.roi_heads,
            pixel_mean=[0.0],
            pixel_std=[1.0],
            vis_period=1,
        )


def test_autocast():
    model = build()
    with EventStorage(), torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(inputs())
        sum(losses.values()).backward()
    assert sorted(losses) == LOSSES
    assert all(value.isfinite() for value in losses.values())
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = model.eval()(inputs())[0]["instances"]
    assert found.pred_boxes.tensor.dtype == torch.float32
    assert found.pred_boxes.tensor.isfinite().all()


def test_broken_weights_give_no_detections():
    model = build().eval()
    nn.init.constant_(model.roi_heads.box_predictor.bbox_pred.weight, float("nan"))
    with torch.no_grad():
        assert [len(x["instances"]) for x in model(inputs())] == [0, 0]


def test_cascade_end_to_end():
    model = build(**{"MODEL.ROI_HEADS.NAME": "CascadeROIHeads", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True})
    with EventStorage():
        losses = model(inputs())
    assert {"loss_cls_stage2", "loss_mask", "loss_rpn_loc"} <= set(losses)
    with torch.no_grad():
        assert len(model.eval()(inputs())[0]["instances"]) > 0


def test_proposal_network():
    model = build("ProposalNetwork")
    assert type(model) is ProposalNetwork
    with EventStorage():
        assert sorted(model(inputs())) == ["loss_rpn_cls", "loss_rpn_loc"]
        renamed = [{"image": x["image"], "targets": x["instances"]} for x in inputs()]
        assert sorted(model(renamed)) == ["loss_rpn_cls", "loss_rpn_loc"]
    batch = inputs()
    batch[0].update(height=20, width=28)
    with torch.no_grad():
        proposals = model.eval()(batch)[0]["proposals"]
    assert proposals.image_size == (20, 28)
    assert len(proposals) == len(proposals.objectness_logits) > 0
    assert proposals.proposal_boxes.tensor[:, 2].max() <= 28


def test_registry_knows_the_architectures():
    for name in ("GeneralizedRCNN", "ProposalNetwork", "RetinaNet"):
        assert META_ARCH_REGISTRY.get(name).__name__ == name


@pytest.mark.bundled_only
@pytest.mark.parametrize("name", ["PanopticFPN", "SemanticSegmentor"])
def test_left_out_architectures_say_so(name):
    with pytest.raises(NotImplementedError, match=name):
        build(name)
