"""Convolutions, deformable convolutions, ASPP, RoIAlign, NMS and box losses."""

import copy

import pytest
import torch
from detectron2.layers import (
    ASPP,
    Conv2d,
    DeformConv,
    DepthwiseSeparableConv2d,
    ModulatedDeformConv,
    ROIAlign,
    ShapeSpec,
    batched_nms,
    cat,
    ciou_loss,
    cross_entropy,
    diou_loss,
    get_norm,
    nonzero_tuple,
    shapes_to_tensor,
)
from torch import nn
from torch.nn import functional as F
from torchvision.ops import complete_box_iou_loss, distance_box_iou_loss


def test_conv_then_norm_then_activation():
    conv = Conv2d(3, 32, 3, padding=1, bias=False, norm=get_norm("GN", 32), activation=F.relu)
    x = torch.randn(2, 3, 5, 5)
    plain = F.conv2d(x, conv.weight, padding=1)
    torch.testing.assert_close(conv(x), F.relu(conv.norm(plain)))
    assert list(conv.state_dict()) == ["weight", "norm.weight", "norm.bias"]
    assert conv(x[:0]).shape == (0, 32, 5, 5)
    with pytest.raises(AssertionError):
        Conv2d(3, 4, 1, norm=nn.SyncBatchNorm(4))(x[:0])


def test_cross_entropy_of_nothing_is_zero_with_a_gradient():
    logits = torch.zeros(0, 5, requires_grad=True)
    loss = cross_entropy(logits, torch.zeros(0, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.shape == (0, 5)
    full = torch.randn(3, 5)
    target = torch.tensor([0, 2, 4])
    torch.testing.assert_close(cross_entropy(full, target), F.cross_entropy(full, target))
    assert cross_entropy(full, target, reduction="none").shape == (3,)


def test_small_wrappers():
    x = torch.tensor([[0, 1], [2, 0]])
    assert cat([x]) is x
    assert cat([x, x], dim=1).shape == (2, 4)
    assert [i.tolist() for i in nonzero_tuple(x)] == [[0, 1], [1, 0]]
    assert shapes_to_tensor([3, 4]).tolist() == [3, 4]
    assert ShapeSpec(channels=3, stride=4) == ShapeSpec(3, None, None, 4)


def test_deform_conv_without_offsets_is_a_convolution():
    x = torch.randn(2, 6, 7, 8)
    conv = DeformConv(6, 4, 3, stride=2, padding=1, activation=F.relu)
    with torch.no_grad():
        out = conv(x, torch.zeros(2, 18, 4, 4))
        expected = F.relu(F.conv2d(x, conv.weight, stride=2, padding=1))
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-4)
    assert set(conv.state_dict()) == {"weight"}


@pytest.mark.bundled_only
def test_modulated_deform_conv_scales_each_tap():
    x = torch.randn(2, 6, 7, 8)
    conv = ModulatedDeformConv(6, 4, 3, stride=2, padding=1)
    nn.init.normal_(conv.bias)
    out = conv(x, torch.zeros(2, 18, 4, 4), torch.full((2, 9, 4, 4), 0.5))
    expected = F.conv2d(x, conv.weight * 0.5, conv.bias, stride=2, padding=1)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-4)
    assert set(conv.state_dict()) == {"weight", "bias"}
    empty = conv(x[:0], torch.zeros(0, 18, 4, 4), torch.zeros(0, 9, 4, 4))
    assert empty.shape == (0, 4, 4, 4)


def test_deform_conv_reads_offsets_as_y_x():
    conv = DeformConv(1, 1, 1)
    nn.init.ones_(conv.weight)
    x = torch.arange(20.0).reshape(1, 1, 4, 5)
    offset = torch.zeros(1, 2, 4, 5)
    offset[:, 0] = 1
    with torch.no_grad():
        assert torch.equal(conv(x, offset)[0, 0, :3], x[0, 0, 1:])


def test_deform_conv_of_an_empty_batch():
    x = torch.zeros(0, 6, 9, 11, requires_grad=True)
    out = DeformConv(6, 4, 3, stride=2, padding=1, norm=nn.BatchNorm2d(4))(x, torch.zeros(0, 18, 5, 6))
    assert out.shape == (0, 4, 5, 6)
    out.sum().backward()
    assert x.grad.shape == x.shape


@pytest.mark.bundled_only
def test_deform_conv_trains_with_groups_and_explains_bad_shapes():
    x, offset, mask = torch.randn(1, 4, 5, 5), torch.randn(1, 36, 5, 5), torch.rand(1, 18, 5, 5)
    conv = ModulatedDeformConv(4, 8, 3, padding=1, groups=2, deformable_groups=2)
    inputs = [t.requires_grad_() for t in (x, offset, mask)]
    conv(*inputs).pow(2).sum().backward()
    assert all(t.grad.abs().sum() > 0 for t in [*inputs, conv.weight, conv.bias])
    with pytest.raises(RuntimeError, match="offset needs 36 channels"):
        conv(x, offset[:, :18], mask)
    with pytest.raises(RuntimeError, match="mask needs 18 channels"):
        conv(x, offset, mask[:, :9])
    with pytest.raises(RuntimeError, match="input channels"):
        conv(torch.randn(1, 6, 5, 5), offset, mask)


def test_deform_conv_refuses_bad_arguments_and_prints_itself():
    with pytest.raises(AssertionError):
        DeformConv(4, 4, 3, bias=True)
    with pytest.raises(AssertionError):
        DeformConv(4, 4, 3, groups=3)
    assert repr(DeformConv(4, 8, 3, padding=1)) == (
        "DeformConv(in_channels=4, out_channels=8, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), "
        "dilation=(1, 1), groups=1, deformable_groups=1, bias=False)"
    )
    assert "stride=1, padding=1," in repr(ModulatedDeformConv(4, 8, 3, padding=1))


@pytest.mark.parametrize("separable", [False, True])
@pytest.mark.parametrize("pool", [None, (4, 5)])
def test_aspp(separable, pool):
    aspp = ASPP(
        6,
        32,
        [1, 2, 3],
        norm="BN",
        activation=nn.ReLU(),
        pool_kernel_size=pool,
        dropout=0.1,
        use_depthwise_separable_conv=separable,
    )
    x = torch.randn(2, 6, 8, 10)
    assert aspp(x).shape == (2, 32, 8, 10)
    assert len(aspp.convs) == 5
    assert isinstance(aspp.convs[1], DepthwiseSeparableConv2d) == separable
    assert aspp.convs[4][1].norm is None
    assert torch.equal(aspp.eval()(x), copy.deepcopy(aspp)(x))
    if pool:
        with pytest.raises(ValueError, match="pool_kernel_size"):
            aspp(x[..., :9])
    with pytest.raises(AssertionError):
        ASPP(6, 8, [1, 2], norm="", activation=nn.ReLU())


def test_roi_align_of_a_ramp_returns_cell_centres():
    ramp = torch.arange(16.0).expand(1, 1, 16, 16) + 0.5
    rois = torch.tensor([[0.0, 8, 8, 24, 24]])
    pooled = ROIAlign((2, 4), 0.5, 0)(ramp, rois)
    torch.testing.assert_close(pooled[0, 0], torch.tensor([[5.0, 7, 9, 11]]).expand(2, 4))
    shifted = ROIAlign((2, 4), 0.5, 0, aligned=False)(ramp, rois)
    torch.testing.assert_close(shifted, pooled + 0.5)
    assert ROIAlign(7, 0.5, 0)(ramp, rois[:0]).shape == (0, 1, 7, 7)
    assert repr(ROIAlign(7, 0.25, 2)) == "ROIAlign(output_size=7, spatial_scale=0.25, sampling_ratio=2, aligned=True)"
    with pytest.raises(AssertionError):
        ROIAlign(7, 0.5, 0)(ramp, rois[:, 1:])


def test_nms_is_per_class_also_in_half_precision():
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [0, 0, 10, 10], [50, 50, 60, 60]])
    scores = torch.tensor([0.8, 0.9, 0.5, 0.7])
    classes = torch.tensor([0, 0, 1, 0])
    for dtype in (torch.float32, torch.float16):
        assert batched_nms(boxes.to(dtype), scores, classes, 0.5).tolist() == [1, 3, 2]
    assert batched_nms(boxes[:0], scores[:0], classes[:0], 0.5).tolist() == []


@pytest.mark.parametrize(
    ("ours", "torchvisions"), [(diou_loss, distance_box_iou_loss), (ciou_loss, complete_box_iou_loss)]
)
def test_iou_losses_equal_torchvision(ours, torchvisions):
    generator = torch.Generator().manual_seed(0)
    start = torch.rand(2, 20, 2, generator=generator) * 20
    pred, target = torch.cat([start, start + torch.rand(2, 20, 2, generator=generator) * 30 + 1], dim=2)
    first, second = pred.clone().requires_grad_(), pred.clone().requires_grad_()
    for reduction in ("none", "mean", "sum"):
        torch.testing.assert_close(ours(first, target, reduction), torchvisions(second, target, reduction))
    ours(first, target, "sum").backward()
    torchvisions(second, target, "sum").backward()
    torch.testing.assert_close(first.grad, second.grad, atol=1e-5, rtol=1e-4)
    assert ours(pred[:0], target[:0], "mean").item() == 0
    torch.testing.assert_close(ours(target, target), torch.zeros(20), atol=1e-5, rtol=0)
    with pytest.raises(AssertionError):
        ours(pred[:, [2, 1, 0, 3]], target)


def test_diou_by_hand():
    # IoU 50 / 150, centres 5 apart, enclosing box 15 x 10.
    loss = diou_loss(torch.tensor([0.0, 0, 10, 10]), torch.tensor([5.0, 0, 15, 10]))
    assert loss.item() == pytest.approx(1 - 1 / 3 + 25 / 325, abs=1e-6)
