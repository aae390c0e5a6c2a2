"""Boxes, box modes and pairwise geometry against hand-computed numbers and torchvision."""

import numpy as np
import pytest
import torch
from detectron2.structures import (
    Boxes,
    BoxMode,
    RotatedBoxes,
    pairwise_ioa,
    pairwise_iou,
    pairwise_point_box_distance,
)
from detectron2.structures.boxes import matched_pairwise_iou, pairwise_intersection
from torchvision.ops import box_iou

XYXY, XYWH, XYWHA = BoxMode.XYXY_ABS, BoxMode.XYWH_ABS, BoxMode.XYWHA_ABS


def random_boxes(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    start = torch.rand(count, 2, generator=generator) * 80
    return torch.cat([start, start + torch.rand(count, 2, generator=generator) * 60], dim=1)


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
def test_convert_keeps_the_type_and_the_input(kind):
    single = kind in (list, tuple)
    box = kind([10.0, 20.0, 5.0, 8.0]) if single else kind([[10.0, 20.0, 5.0, 8.0]])
    corners = BoxMode.convert(box, XYWH, XYXY)
    assert type(corners) is type(box)
    assert np.asarray(corners).reshape(-1).tolist() == [10, 20, 15, 28]
    assert np.asarray(box).reshape(-1).tolist() == [10, 20, 5, 8]
    assert np.asarray(BoxMode.convert(corners, XYXY, XYWH)).reshape(-1).tolist() == [10, 20, 5, 8]
    assert BoxMode.convert(box, XYWH, XYWH) is box


def test_convert_of_rotated_boxes():
    upright = BoxMode.convert([[50.0, 40.0, 20.0, 10.0, 90.0]][0], XYWHA, XYXY)
    assert upright == pytest.approx([45, 30, 55, 50], abs=1e-4)
    assert BoxMode.convert([10, 20, 4, 6], XYWH, XYWHA) == [12, 23, 4, 6, 0]


def test_convert_refuses_what_it_cannot_do():
    with pytest.raises(AssertionError):
        BoxMode.convert([0.0, 0, 1, 1], BoxMode.XYXY_REL, XYXY)
    with pytest.raises(AssertionError):
        BoxMode.convert([0.0, 0, 1], XYXY, XYWH)
    with pytest.raises(NotImplementedError):
        BoxMode.convert([0.0, 0, 1, 1], XYXY, XYWHA)


def test_pairwise_overlap_by_hand():
    first = Boxes([[0, 0, 10, 10], [5, 5, 5, 5]])
    second = Boxes([[5, 0, 15, 10], [20, 20, 30, 30], [0, 0, 5, 5]])
    assert pairwise_intersection(first, second).tolist() == [[50, 0, 25], [0, 0, 0]]
    expected = torch.tensor([[50 / 150, 0, 25 / 100], [0, 0, 0]])
    torch.testing.assert_close(pairwise_iou(first, second), expected)
    torch.testing.assert_close(pairwise_ioa(first, second), torch.tensor([[0.5, 0, 1.0], [0, 0, 0]]))


def test_pairwise_iou_equals_torchvision():
    first, second = random_boxes(30), random_boxes(50, seed=1)
    torch.testing.assert_close(pairwise_iou(Boxes(first), Boxes(second)), box_iou(first, second))
    matched = matched_pairwise_iou(Boxes(first), Boxes(second[:30]))
    torch.testing.assert_close(matched, box_iou(first, second).diagonal())
    with pytest.raises(AssertionError):
        matched_pairwise_iou(Boxes(first), Boxes(second))


def test_pairwise_functions_of_no_boxes():
    none, some = Boxes(torch.zeros(0, 4)), Boxes(random_boxes(3))
    for function in (pairwise_iou, pairwise_ioa, pairwise_intersection):
        assert function(none, some).shape == (0, 3)
        assert function(some, none).shape == (3, 0)
    assert pairwise_point_box_distance(torch.zeros(2, 2), none).shape == (2, 0, 4)


def test_pairwise_iou_has_a_gradient():
    boxes = random_boxes(4).requires_grad_()
    pairwise_iou(Boxes(boxes), Boxes(random_boxes(4) + 1)).sum().backward()
    assert boxes.grad.abs().sum() > 0


def test_point_box_distance_by_hand():
    distance = pairwise_point_box_distance(torch.tensor([[3.0, 4.0]]), Boxes([[1, 1, 10, 20], [5, 5, 6, 6]]))
    assert distance.tolist() == [[[2, 3, 7, 16], [-2, -1, 3, 2]]]


def test_clip_and_filters():
    boxes = Boxes([[-5.0, 2, 30, 50], [1, 1, 2, 9], [40, 40, 60, 60]])
    assert boxes.inside_box((50, 30)).tolist() == [False, True, False]
    assert boxes.inside_box((50, 30), boundary_threshold=5).tolist() == [True, True, False]
    boxes.clip((20, 25))
    assert boxes.tensor.tolist() == [[0, 2, 25, 20], [1, 1, 2, 9], [25, 20, 25, 20]]
    assert boxes.nonempty().tolist() == [True, True, False]
    assert boxes.nonempty(threshold=1).tolist() == [True, False, False]
    assert boxes.area().tolist() == [450, 8, 0]
    with pytest.raises(AssertionError):
        Boxes([[0, 0, float("nan"), 1]]).clip((5, 5))


def test_boxes_behave_like_a_tensor():
    data = random_boxes(5)
    boxes = Boxes(data)
    assert len(boxes) == 5
    assert [b.shape for b in boxes] == [(4,)] * 5
    assert torch.equal(boxes[2].tensor, data[2:3])
    assert torch.equal(boxes[torch.tensor([True, False, True, False, False])].tensor, data[[0, 2]])
    assert torch.equal(boxes.get_centers(), (data[:, :2] + data[:, 2:]) / 2)
    copy = boxes.clone()
    copy.scale(2, 3)
    assert torch.equal(copy.tensor, data * torch.tensor([2.0, 3, 2, 3]))
    assert torch.equal(boxes.tensor, data)
    joined = Boxes.cat([boxes, copy])
    assert len(joined) == 10
    assert Boxes.cat([]).tensor.shape == Boxes([]).tensor.shape == (0, 4)
    assert Boxes(data.half()).tensor.dtype == torch.float32
    with pytest.raises(AssertionError):
        Boxes(torch.zeros(3, 5))
    with pytest.raises(AssertionError):
        boxes[0, 1]


@pytest.mark.bundled_only
def test_rotated_boxes_say_that_they_are_left_out():
    with pytest.raises(NotImplementedError, match="rotated boxes"):
        RotatedBoxes(torch.zeros(1, 5))
