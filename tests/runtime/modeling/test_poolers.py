"""RoI pooling: levels by hand, values and gradients by torchvision box for box."""

import pytest
import torch
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels, convert_boxes_to_pooler_format
from detectron2.structures import Boxes
from torchvision.ops import roi_align, roi_pool

SCALES = (1 / 4, 1 / 8, 1 / 16, 1 / 32)


def square(side):
    return [3.0, 5.0, 3.0 + side, 5.0 + side]


def test_levels_double_with_the_size():
    sides = (0, 1, 111.9, 112, 223.9, 224, 447.9, 448, 5000)
    boxes = [Boxes(torch.tensor([square(s) for s in sides[:4]])), Boxes(torch.tensor([square(s) for s in sides[4:]]))]
    levels = assign_boxes_to_levels(boxes, 2, 5, 224, 4)
    assert levels.tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3]
    assert levels.dtype == torch.int64
    assert assign_boxes_to_levels(boxes, 2, 5, 112, 4).tolist() == [0, 0, 1, 2, 2, 3, 3, 3, 3]


def test_format_has_the_image_first():
    boxes = [Boxes(torch.tensor([square(1), square(2)])), Boxes(torch.zeros(0, 4)), Boxes(torch.tensor([square(3)]))]
    got = convert_boxes_to_pooler_format(boxes)
    assert got.tolist() == [[0, *square(1)], [0, *square(2)], [2, *square(3)]]


def case(counts):
    torch.manual_seed(0)
    features = [torch.randn(len(counts), 3, int(256 * s), int(320 * s), requires_grad=True) for s in SCALES]
    boxes = []
    for count in counts:
        corner = torch.rand(count, 2) * 150
        boxes.append(Boxes(torch.cat((corner, corner + 2 + torch.rand(count, 2).pow(2) * 500), dim=1)))
    return features, boxes


@pytest.mark.parametrize("kind", ["ROIAlign", "ROIAlignV2", "ROIPool"])
@pytest.mark.parametrize("counts", [(12, 9), (0, 4), (1, 0)])
def test_values_and_gradients_box_for_box(kind, counts):
    features, boxes = case(counts)
    pooled = ROIPooler(5, SCALES, 2, kind, canonical_box_size=112)(features, boxes)
    expected = []
    levels = assign_boxes_to_levels(boxes, 2, 5, 112, 4).tolist()
    for roi, level in zip(convert_boxes_to_pooler_format(boxes), levels, strict=True):
        if kind == "ROIPool":
            expected.append(roi_pool(features[level], roi[None], 5, SCALES[level]))
        else:
            expected.append(roi_align(features[level], roi[None], 5, SCALES[level], 2, aligned=kind == "ROIAlignV2"))
    expected = torch.cat(expected)
    torch.testing.assert_close(pooled, expected)
    ours = torch.autograd.grad(pooled.sin().sum(), features)
    theirs = torch.autograd.grad(expected.sin().sum(), features, allow_unused=True)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, torch.zeros_like(a) if b is None else b)
    if sum(counts) > 10:
        assert set(levels) == {0, 1, 2, 3}


def test_no_boxes_and_no_images():
    features, boxes = case((0, 0))
    pooler = ROIPooler(7, SCALES, 0, "ROIAlignV2")
    pooled = pooler(features, boxes)
    assert pooled.shape == (0, 3, 7, 7)
    pooled.sum().backward()
    assert all(f.grad is not None for f in features)
    assert pooler([f[:0] for f in features], []).shape == (0, 3, 7, 7)


def test_one_level():
    features, boxes = case((4, 2))
    pooled = ROIPooler((3, 5), SCALES[1:2], 2, "ROIAlignV2")(features[1:2], boxes)
    expected = roi_align(features[1], [b.tensor for b in boxes], (3, 5), SCALES[1], 2, aligned=True)
    torch.testing.assert_close(pooled, expected)


@pytest.mark.bundled_only
def test_several_levels_into_a_rectangle():
    features, boxes = case((4, 2))
    assert ROIPooler((3, 5), SCALES, 2, "ROIAlignV2")(features, boxes).shape == (6, 3, 3, 5)


def test_refusals():
    with pytest.raises(AssertionError):
        ROIPooler(7, (1 / 3,), 0, "ROIAlignV2")
    with pytest.raises(AssertionError):
        ROIPooler(7, (1 / 4, 1 / 16), 0, "ROIAlignV2")
    with pytest.raises(AssertionError):
        ROIPooler((7, 7, 7), SCALES, 0, "ROIAlignV2")
    with pytest.raises(ValueError, match="Nearest"):
        ROIPooler(7, SCALES, 0, "Nearest")
    features, boxes = case((2, 2))
    pooler = ROIPooler(7, SCALES, 0, "ROIAlignV2")
    with pytest.raises(AssertionError):
        pooler(features[:2], boxes)
    with pytest.raises(AssertionError):
        pooler(features, boxes[:1])
