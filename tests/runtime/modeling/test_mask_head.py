"""Mask loss, mask inference and the mask heads."""

import math

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads.mask_head import (
    ROI_MASK_HEAD_REGISTRY,
    BaseMaskRCNNHead,
    MaskRCNNConvUpsampleHead,
    build_mask_head,
    mask_rcnn_inference,
    mask_rcnn_loss,
)
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn


def targets(classes, side=4):
    """Squares of 2 * side pixels whose left half is foreground, each the box of a proposal."""
    n = len(classes)
    masks = torch.zeros(n, 2 * side, 2 * side, dtype=torch.bool)
    masks[:, :, :side] = True
    return Instances(
        (2 * side, 2 * side),
        proposal_boxes=Boxes(torch.tensor([[0.0, 0, 2 * side, 2 * side]]).repeat(n, 1)),
        gt_classes=torch.tensor(classes, dtype=torch.int64),
        gt_masks=BitMasks(masks),
    )


def left_half(n, channels, side=4, scale=20.0):
    logits = torch.full((n, channels, side, side), -scale)
    logits[..., : side // 2] = scale
    return logits


def test_loss_at_known_logits():
    with EventStorage():
        undecided = mask_rcnn_loss(torch.zeros(3, 5, 4, 4), [targets([0, 4]), targets([2])])
        perfect = mask_rcnn_loss(left_half(2, 5), [targets([1, 3])])
        inverted = mask_rcnn_loss(-left_half(1, 1, scale=3.0), [targets([0])])
    assert undecided.item() == pytest.approx(math.log(2))
    assert perfect.item() == pytest.approx(0, abs=1e-6)
    assert inverted.item() == pytest.approx(math.log1p(math.exp(3)))


def test_only_the_true_class_learns():
    logits = torch.zeros(3, 4, 4, 4, requires_grad=True)
    with EventStorage():
        mask_rcnn_loss(logits, [targets([2]), targets([]), targets([0, 3])]).backward()
    touched = logits.grad.abs().sum(dim=(2, 3)) > 0
    assert touched.nonzero().tolist() == [[0, 2], [1, 0], [2, 3]]
    # d/dx of BCE at 0 is (0.5 - t) / number of pixels
    assert logits.grad[0, 2, 0, 0].item() == pytest.approx(-0.5 / 48)
    assert logits.grad[0, 2, 0, 3].item() == pytest.approx(0.5 / 48)


def test_class_agnostic_masks_ignore_the_class():
    with EventStorage():
        loss = mask_rcnn_loss(left_half(2, 1), [targets([7, 70])])
    assert loss.item() == pytest.approx(0, abs=1e-6)


def test_logged_statistics():
    # Foreground predicted in the left quarter, and wrongly in the last column: 4 missed, 4 false of 16.
    logits = torch.full((1, 1, 4, 4), -1.0)
    logits[..., 0] = 1.0
    logits[..., 3] = 1.0
    with EventStorage() as storage:
        mask_rcnn_loss(logits, [targets([0])])
    latest = {name: value for name, (value, _) in storage.latest().items()}
    assert latest == pytest.approx(
        {"mask_rcnn/accuracy": 0.5, "mask_rcnn/false_positive": 0.5, "mask_rcnn/false_negative": 0.5}
    )


def test_without_regions_the_loss_is_a_connected_zero():
    logits = torch.zeros(0, 3, 4, 4, requires_grad=True)
    loss = mask_rcnn_loss(logits, [targets([]), targets([])])
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.shape == logits.shape


def test_masks_must_be_square():
    with pytest.raises(AssertionError):
        mask_rcnn_loss(torch.zeros(1, 3, 4, 6), [targets([0])])


@pytest.mark.parametrize(("iteration", "expected"), [(10, 2), (11, 0)])
def test_pictures_every_period(iteration, expected):
    with EventStorage(iteration) as storage:
        mask_rcnn_loss(left_half(2, 3), [targets([0, 1])], vis_period=5)
        pictures = storage._vis_data
        assert len(pictures) == expected
        for name, picture, at in pictures:
            assert name.startswith("Left: mask prediction;   Right: mask GT")
            assert (tuple(picture.shape), at) == ((3, 4, 8), iteration)
            assert torch.as_tensor(picture)[..., :4].allclose(torch.as_tensor(picture)[..., 4:], atol=1e-4)


def test_inference_takes_the_predicted_class():
    logits = torch.arange(3 * 2 * 4.0).reshape(3, 2, 2, 2) / 10
    found = [Instances((9, 9), pred_classes=torch.tensor(c, dtype=torch.int64)) for c in ([1, 0], [], [1])]
    mask_rcnn_inference(logits, found)
    assert [tuple(x.pred_masks.shape) for x in found] == [(2, 1, 2, 2), (0, 1, 2, 2), (1, 1, 2, 2)]
    assert torch.allclose(found[0].pred_masks[:, 0], torch.stack([logits[0, 1], logits[1, 0]]).sigmoid())
    assert torch.allclose(found[2].pred_masks[0, 0], logits[2, 1].sigmoid())
    agnostic = [Instances((9, 9), pred_classes=torch.tensor([5, 6, 7]))]
    mask_rcnn_inference(logits[:, :1], agnostic)
    assert torch.allclose(agnostic[0].pred_masks, logits[:, :1].sigmoid())


class DictHead(BaseMaskRCNNHead):
    """Pools for itself: gets the dict of feature levels."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.scale = nn.Parameter(torch.ones(()))

    def layers(self, x):
        return x["p2"] * self.scale


def test_a_head_defines_only_its_layers():
    head = DictHead(loss_weight=3.0)
    features = {"p2": torch.zeros(2, 4, 4, 4)}
    with EventStorage():
        losses = head(features, [targets([0, 1])])
    assert list(losses) == ["loss_mask"]
    assert losses["loss_mask"].item() == pytest.approx(3 * math.log(2))
    found = [Instances((9, 9), pred_classes=torch.tensor([0, 1]))]
    assert head.eval()(features, found) is found
    assert found[0].pred_masks.eq(0.5).all()


def test_base_head_has_no_layers():
    with pytest.raises(NotImplementedError):
        BaseMaskRCNNHead()(torch.zeros(1, 1, 2, 2), [])


def test_conv_upsample_head():
    torch.manual_seed(0)
    head = MaskRCNNConvUpsampleHead(ShapeSpec(channels=6), num_classes=5, conv_dims=[8, 7, 9])
    assert [name for name, _ in head.named_children()] == [
        "mask_fcn1",
        "mask_fcn2",
        "deconv",
        "deconv_relu",
        "predictor",
    ]
    assert tuple(head.layers(torch.randn(2, 6, 14, 14)).shape) == (2, 5, 28, 28)
    assert tuple(head.deconv.weight.shape) == (7, 9, 2, 2)
    assert head.mask_fcn1.bias is not None
    assert head.predictor.weight.std().item() == pytest.approx(0.001, rel=0.3)
    assert head.predictor.bias.abs().sum() == 0
    # Normalised layers have no bias of their own.
    normed = MaskRCNNConvUpsampleHead(ShapeSpec(channels=6), num_classes=1, conv_dims=[32, 32], conv_norm="GN")
    assert "mask_fcn1.norm.weight" in normed.state_dict()
    assert "mask_fcn1.bias" not in normed.state_dict()
    with pytest.raises(AssertionError):
        MaskRCNNConvUpsampleHead(ShapeSpec(channels=6), num_classes=1, conv_dims=[])


@pytest.mark.parametrize("agnostic", [False, True])
def test_build_from_config(agnostic):
    cfg = get_cfg()
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 4
    cfg.MODEL.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"
    cfg.MODEL.ROI_MASK_HEAD.NUM_CONV = 2
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 8
    cfg.MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK = agnostic
    cfg.VIS_PERIOD = 17
    head = build_mask_head(cfg, ShapeSpec(channels=3, height=14, width=14))
    assert type(head) is ROI_MASK_HEAD_REGISTRY.get("MaskRCNNConvUpsampleHead")
    assert len(head.conv_norm_relus) == 2
    assert head.predictor.out_channels == (1 if agnostic else 4)
    assert (head.vis_period, head.loss_weight) == (17, 1.0)
