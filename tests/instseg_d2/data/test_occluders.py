import numpy as np
import pytest
import torch

from instseg_d2.data import OccluderRule, occluder_masks
from instseg_d2.data.fields import filled_boxes
from instseg_d2.data.occluders import cut_at_boxes, neighbours, pixel_windows, read_stored_occluders

H, W = 40, 60
ANY_SIZE = OccluderRule(pixels_above=0)


def scene(*boxes):
    """Boxes and masks that fill them."""
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return filled_boxes(boxes, (H, W)), boxes


def rectangle(*windows):
    mask = torch.zeros(H, W, dtype=torch.bool)
    for x0, y0, x1, y1 in windows:
        mask[y0:y1, x0:x1] = True
    return mask


def test_three_overlapping_boxes():
    # IoU: first and second 100 / 700, first and third 60 / 580, second and third 30 / 610 < 0.05.
    masks, boxes = scene([0, 0, 20, 20], [10, 10, 30, 30], [15, 0, 35, 12])
    result = occluder_masks(masks, boxes)
    assert result.dtype == torch.bool
    assert torch.equal(result[0], rectangle((10, 10, 20, 20), (15, 0, 20, 12)))
    assert torch.equal(result[1], rectangle((10, 10, 20, 20)))
    assert torch.equal(result[2], rectangle((15, 0, 20, 12)))


@pytest.mark.parametrize(("right", "occludes"), [(40, False), (39, True)])
def test_iou_must_exceed_the_threshold(right, occludes):
    # Overlap 2 x 10; union 200 + 220 - 20 = 400 gives exactly 0.05, 390 gives more.
    masks, boxes = scene([0, 0, 20, 10], [18, 0, right, 10])
    result = occluder_masks(masks, boxes, rule=ANY_SIZE)
    assert result.flatten(1).any(dim=1).tolist() == [occludes, occludes]
    threshold = OccluderRule(iou_above=0.049, pixels_above=0)
    assert occluder_masks(masks, boxes, rule=threshold).any()


@pytest.mark.parametrize(("count", "occludes"), [(20, False), (21, True)])
def test_union_must_have_more_pixels_than_the_threshold(count, occludes):
    masks, boxes = scene([0, 0, 10, 10], [5, 0, 15, 10])
    masks[1] = rectangle((10, 0, 15, 10))
    rows = torch.arange(count)
    masks[1, rows % 10, 5 + rows // 10] = True
    result = occluder_masks(masks, boxes)
    assert int(result[0].sum()) == (count if occludes else 0)
    # The second one's own occluder is the whole right half of the first.
    assert torch.equal(result[1], rectangle((5, 0, 10, 10)))


def test_small_occluders_count_together():
    masks, boxes = scene([0, 0, 20, 20], [10, 0, 30, 20], [0, 10, 20, 30])
    masks[1] = rectangle((10, 0, 14, 4))
    masks[2] = rectangle((0, 10, 4, 14))
    assert int(occluder_masks(masks, boxes)[0].sum()) == 32


def test_own_pixels_stay_where_masks_overlap():
    masks, boxes = scene([0, 0, 20, 20], [0, 0, 20, 20])
    assert torch.equal(occluder_masks(masks, boxes), masks)


def test_hidden_masks_add_nothing():
    masks, boxes = scene([0, 0, 20, 20], [10, 10, 30, 30], [10, 0, 30, 20])
    result = occluder_masks(masks, boxes, has_mask=torch.tensor([True, False, True]))
    assert torch.equal(result[0], rectangle((10, 0, 20, 20)))
    assert torch.equal(result[1], rectangle((10, 10, 30, 20)))
    assert torch.equal(result[2], rectangle((10, 0, 20, 20)))


def test_front_only():
    masks, boxes = scene([0, 0, 20, 20], [10, 10, 30, 30], [10, 0, 30, 20])
    rule, depth = OccluderRule(front_only=True), torch.tensor([1, 0, 2])
    assert neighbours(boxes, rule, depth).tolist() == [[False, True, False], [False] * 3, [True, True, False]]
    result = occluder_masks(masks, boxes, rule=rule, depth=depth)
    assert torch.equal(result[0], rectangle((10, 10, 20, 20)))
    assert not result[1].any()
    assert torch.equal(result[2], rectangle((10, 0, 20, 20), (10, 10, 30, 20)))
    assert not neighbours(boxes, rule, torch.tensor([3, 3, 3])).any()
    with pytest.raises(ValueError, match="front_only needs the depth"):
        occluder_masks(masks, boxes, rule=rule)


def slow_occluders(masks, boxes):
    """The definition, pair by pair, on whole images."""
    boxes = boxes.double().tolist()
    result = np.zeros(masks.shape, dtype=bool)
    for i, (x0, y0, x1, y1) in enumerate(boxes):
        window = np.zeros(masks.shape[1:], dtype=bool)
        window[int(np.floor(y0)) : int(np.ceil(y1)), int(np.floor(x0)) : int(np.ceil(x1))] = True
        for j, (u0, v0, u1, v1) in enumerate(boxes):
            shared = max(min(x1, u1) - max(x0, u0), 0) * max(min(y1, v1) - max(y0, v0), 0)
            if i != j and shared / ((x1 - x0) * (y1 - y0) + (u1 - u0) * (v1 - v0) - shared) > 0.05:
                result[i] |= masks[j].numpy() & window
        if result[i].sum() <= 20:
            result[i] = False
    return torch.from_numpy(result)


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_definition(seed):
    rng = torch.Generator().manual_seed(seed)
    low = torch.rand(9, 2, generator=rng) * torch.tensor([W - 20, H - 20])
    boxes = torch.cat([low, low + 1 + torch.rand(9, 2, generator=rng) * 19], dim=1)
    masks = torch.rand(9, H, W, generator=rng) < 0.3
    expected = slow_occluders(masks, boxes)
    assert expected.any()
    assert torch.equal(occluder_masks(masks, boxes), expected)


def test_nothing_and_boxes_without_area():
    assert occluder_masks(torch.zeros(0, H, W, dtype=torch.bool), torch.zeros(0, 4)).shape == (0, H, W)
    masks, boxes = scene([5, 5, 5, 9], [0, 0, 20, 20])
    assert not occluder_masks(masks, boxes).any()


def test_pixel_windows_cover_what_a_box_touches_inside_the_image():
    boxes = torch.tensor([[1.2, 2.0, 3.0, 4.1], [-3.0, -1.0, 70.0, 50.0], [59.9, 39.9, 60.0, 40.0]])
    assert pixel_windows(boxes, (H, W)) == [[1, 2, 3, 5], [0, 0, 60, 40], [59, 39, 60, 40]]


def test_cut_at_boxes():
    full = torch.ones(2, H, W, dtype=torch.bool)
    boxes = torch.tensor([[0.0, 0, 5, 5], [10, 10, 12, 13]])
    assert torch.equal(cut_at_boxes(full, boxes), torch.stack([rectangle((0, 0, 5, 5)), rectangle((10, 10, 12, 13))]))


def test_stored_polygons():
    polygons = read_stored_occluders([[0, 0, 4, 0, 4, 4], [1, 2, 3, 4], []])
    assert [polygon.tolist() for polygon in polygons] == [[0, 0, 4, 0, 4, 4]]
    assert read_stored_occluders([]) == []
    with pytest.raises(ValueError, match=r"'bg_object_segmentation'\[1\] has 7 numbers"):
        read_stored_occluders([[0] * 6, [0] * 7])
    with pytest.raises(ValueError, match="needs finite ones"):
        read_stored_occluders([[0] * 5 + [float("inf")]])
    with pytest.raises(ValueError, match="must be a list of polygons, not dict"):
        read_stored_occluders({"size": [1, 1], "counts": "x"})
