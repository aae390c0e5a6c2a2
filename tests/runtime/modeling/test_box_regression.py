"""Box transforms: hand-computed deltas, round trips, torchvision's coder, and the dense loss by loops."""

import math

import pytest
import torch
from detectron2.modeling.box_regression import Box2BoxTransform, Box2BoxTransformLinear, _dense_box_regression_loss
from detectron2.structures import Boxes
from detectron2.utils.testing import random_boxes
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import complete_box_iou_loss, distance_box_iou_loss, generalized_box_iou_loss


def test_hand_computed_deltas():
    transform = Box2BoxTransform((10.0, 10.0, 5.0, 5.0))
    source = torch.tensor([[0.0, 0, 10, 20]])
    target = torch.tensor([[5.0, 0, 25, 40]])
    deltas = transform.get_deltas(source, target)
    # Centers (5, 10) -> (15, 20); the size doubles.
    expected = torch.tensor([[10.0, 5.0, 5 * math.log(2), 5 * math.log(2)]])
    torch.testing.assert_close(deltas, expected)
    torch.testing.assert_close(transform.apply_deltas(deltas, source), target)


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 20.0, 5.0, 2.5)])
def test_equals_torchvision(weights):
    torch.manual_seed(0)
    source, target = random_boxes(50), random_boxes(50)
    ours, theirs = Box2BoxTransform(weights), BoxCoder(weights)
    torch.testing.assert_close(ours.get_deltas(source, target), theirs.encode_single(target, source))
    deltas = torch.randn(50, 12) * 3
    torch.testing.assert_close(
        ours.apply_deltas(deltas, source), theirs.decode_single(deltas, source).view(50, 12), rtol=1e-5, atol=1e-4
    )


def test_scale_clamp_and_precision():
    transform = Box2BoxTransform((1.0, 1.0, 1.0, 1.0))
    source = torch.tensor([[0.0, 0, 16, 16]])
    huge = transform.apply_deltas(torch.tensor([[0.0, 0, 100, 100]]), source)
    torch.testing.assert_close(huge, torch.tensor([[-492.0, -492, 508, 508]]))
    half = transform.apply_deltas(torch.zeros(1, 8, dtype=torch.float16), source.half())
    assert half.dtype == torch.float32
    assert half.tolist() == [[0, 0, 16, 16] * 2]
    assert transform.apply_deltas(torch.zeros(0, 8), torch.zeros(0, 4)).shape == (0, 8)
    with pytest.raises(AssertionError):
        transform.get_deltas(torch.tensor([[5.0, 0, 5, 5]]), source)


@pytest.mark.parametrize("normalize", [True, False])
def test_linear_hand_computed(normalize):
    transform = Box2BoxTransformLinear(normalize_by_size=normalize)
    source = torch.tensor([[10.0, 10, 18, 18]])
    target = torch.tensor([[6.0, 10, 30, 15]])
    deltas = transform.get_deltas(source, target)
    expected = torch.tensor([[8.0, 4, 16, 1]]) / (8 if normalize else 1)
    torch.testing.assert_close(deltas, expected)
    torch.testing.assert_close(transform.apply_deltas(deltas, source), target)
    # Negative distances count as zero.
    got = transform.apply_deltas(torch.tensor([[-1.0, -1, -1, -1]]), source)
    assert got.tolist() == [[14, 14, 14, 14]]


def dense_case():
    torch.manual_seed(0)
    anchors = [Boxes(random_boxes(n)) for n in (6, 3)]
    deltas = [(torch.randn(2, n, 4) * 0.2).requires_grad_() for n in (6, 3)]
    gt_boxes = [random_boxes(9), random_boxes(9)]
    return anchors, deltas, gt_boxes, torch.rand(2, 9) < 0.5


@pytest.mark.parametrize("kind", ["smooth_l1", "giou", "diou", "ciou"])
def test_dense_loss_by_loops(kind):
    anchors, deltas, gt_boxes, foreground = dense_case()
    transform = Box2BoxTransform((1.0, 1.0, 1.0, 1.0))
    loss = _dense_box_regression_loss(anchors, transform, deltas, gt_boxes, foreground, kind, 0.5)

    all_anchors, all_deltas = Boxes.cat(anchors).tensor, torch.cat(deltas, dim=1)
    losses = {"giou": generalized_box_iou_loss, "diou": distance_box_iou_loss, "ciou": complete_box_iou_loss}
    expected = torch.tensor(0.0)
    for i, j in foreground.nonzero().tolist():
        anchor, delta, gt = all_anchors[j : j + 1], all_deltas[i, j][None], gt_boxes[i][j][None]
        if kind == "smooth_l1":
            gap = (delta - transform.get_deltas(anchor, gt)).abs()
            expected = expected + torch.where(gap < 0.5, gap.square(), gap - 0.25).sum()
        else:
            expected = expected + losses[kind](transform.apply_deltas(delta, anchor), gt).sum()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    ours = torch.autograd.grad(loss, deltas)
    theirs = torch.autograd.grad(expected, deltas)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ["smooth_l1", "giou"])
def test_dense_loss_without_foreground_keeps_the_graph(kind):
    anchors, deltas, gt_boxes, foreground = dense_case()
    transform = Box2BoxTransform((1.0, 1.0, 1.0, 1.0))
    loss = _dense_box_regression_loss(anchors, transform, deltas, gt_boxes, foreground & False, kind)
    loss.backward()
    assert loss.item() == 0
    assert deltas[0].grad.abs().sum() == 0


def test_dense_loss_of_unknown_name():
    with pytest.raises(ValueError, match="huber"):
        _dense_box_regression_loss(dense_case()[0], Box2BoxTransform((1.0,) * 4), *dense_case()[1:], "huber")
