"""Bitmaps, polygons and RoI masks against hand-drawn shapes and brute force."""

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Boxes, PolygonMasks, ROIMasks, polygons_to_bitmask
from detectron2.structures.masks import polygon_area, rasterize_polygons_within_box
from torchvision.ops import roi_align


def rectangle(x0, y0, x1, y1):
    return np.array([x0, y0, x1, y0, x1, y1, x0, y1], dtype=np.float64)


def random_bitmaps(count=6, height=30, width=40):
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(count, 1, height, width, generator=generator)
    return torch.nn.functional.avg_pool2d(noise, 5, 1, 2)[:, 0] > 0.5


def test_polygons_to_bitmask():
    bitmap = polygons_to_bitmask([rectangle(2, 3, 6, 5), rectangle(0, 0, 1, 1)], 8, 10)
    expected = np.zeros((8, 10), dtype=bool)
    expected[3:5, 2:6] = True
    expected[0, 0] = True
    assert bitmap.dtype == bool
    assert (bitmap == expected).all()
    assert polygons_to_bitmask([], 3, 4).sum() == 0


def test_polygon_area_of_both_orientations():
    x, y = np.array([0.0, 4, 4, 0]), np.array([0.0, 0, 3, 3])
    assert polygon_area(x, y) == polygon_area(x[::-1], y[::-1]) == 12


def test_bounding_boxes_of_bitmaps():
    bitmaps = random_bitmaps()
    bitmaps[1] = False
    bitmaps[2] = False
    bitmaps[2, 29, 39] = True
    boxes = BitMasks(bitmaps).get_bounding_boxes().tensor
    for bitmap, box in zip(bitmaps, boxes.tolist(), strict=True):
        y, x = np.nonzero(bitmap.numpy())
        assert box == ([x.min(), y.min(), x.max() + 1, y.max() + 1] if len(x) else [0, 0, 0, 0])
    assert BitMasks(bitmaps).nonempty().tolist() == [True, False, True, True, True, True]
    assert BitMasks(torch.zeros(0, 3, 4)).get_bounding_boxes().tensor.shape == (0, 4)
    assert BitMasks(torch.zeros(0, 3, 4)).nonempty().shape == (0,)


def test_bounding_boxes_of_polygons():
    masks = PolygonMasks([[rectangle(2, 3, 6, 5), rectangle(4, 1, 9, 4)], [rectangle(0, 0, 1, 2)]])
    assert masks.get_bounding_boxes().tensor.tolist() == [[2, 1, 9, 5], [0, 0, 1, 2]]
    assert masks.area().tolist() == [8 + 15, 2]
    assert PolygonMasks([[], [rectangle(0, 0, 1, 1)]]).nonempty().tolist() == [False, True]
    assert len(PolygonMasks([]).get_bounding_boxes()) == 0


def test_crop_of_an_aligned_box_copies_pixels():
    bitmaps = random_bitmaps()
    boxes = torch.tensor([[3.0, 2, 31, 30]]).expand(len(bitmaps), 4)
    assert torch.equal(BitMasks(bitmaps).crop_and_resize(boxes, 28), bitmaps[:, 2:30, 3:31])


def test_crop_equals_one_roi_align_call_whatever_the_memory_limit():
    bitmaps = random_bitmaps().repeat_interleave(20, dim=1).repeat_interleave(20, dim=2)
    start = torch.rand(6, 2) * 300 - 20
    boxes = torch.cat([start, start + torch.rand(6, 2) * 400], dim=1)
    boxes[0, 2:] = boxes[0, :2]
    rois = torch.cat([torch.arange(6.0)[:, None], boxes], dim=1)
    expected = roi_align(bitmaps[:, None].float(), rois, 14, aligned=True)[:, 0] >= 0.5
    assert torch.equal(BitMasks(bitmaps).crop_and_resize(boxes, 14), expected)


def test_crops_of_polygons_and_bitmaps_agree_on_a_rectangle():
    polygons = PolygonMasks([[rectangle(10, 8, 24, 36)]])
    bitmaps = BitMasks.from_polygon_masks(polygons, 40, 40)
    box = torch.tensor([[3.0, 1, 31, 29]])
    expected = torch.zeros(28, 28, dtype=torch.bool)
    expected[7:, 7:21] = True
    assert torch.equal(polygons.crop_and_resize(box, 28)[0], expected)
    assert torch.equal(bitmaps.crop_and_resize(box, 28)[0], expected)


def test_rasterising_keeps_the_polygons_and_survives_empty_boxes():
    polygon = rectangle(1, 1, 5, 5)
    before = polygon.copy()
    assert rasterize_polygons_within_box([polygon], np.array([1.0, 1, 5, 5]), 4).all()
    assert not rasterize_polygons_within_box([polygon], np.array([50.0, 50, 50, 50]), 4).any()
    assert (polygon == before).all()


def test_crop_of_nothing_and_of_the_wrong_number():
    for masks in (BitMasks(torch.zeros(0, 5, 5)), PolygonMasks([])):
        cropped = masks.crop_and_resize(torch.zeros(0, 4), 7)
        assert cropped.shape == (0, 7, 7)
        assert cropped.dtype == torch.bool
        with pytest.raises(AssertionError):
            masks.crop_and_resize(torch.zeros(2, 4), 7)


def test_indexing_and_joining():
    bitmaps = BitMasks(random_bitmaps())
    polygons = PolygonMasks([[rectangle(i, i, i + 2, i + 2)] for i in range(6)])
    flags = torch.tensor([False, True, False, False, True, False])
    for masks in (bitmaps, polygons):
        assert len(masks[2]) == 1
        assert [len(masks[item]) for item in (slice(1, 4), [0, 5], flags, torch.tensor([3, 3, 3]))] == [3, 2, 2, 3]
        assert len(type(masks).cat([masks, masks[flags]])) == 8
    assert torch.equal(bitmaps[flags].tensor, bitmaps.tensor[[1, 4]])
    assert [p[0][0] for p in polygons[flags]] == [1, 4]
    with pytest.raises(ValueError, match="float32"):
        polygons[torch.tensor([1.0])]
    with pytest.raises(AssertionError):
        bitmaps[0, 0]


@pytest.mark.parametrize("bad", [3, [3], [[np.zeros(4)]], [[np.zeros(7)]]])
def test_broken_polygons_are_refused(bad):
    with pytest.raises(ValueError, match=r"polygon|Polygon"):
        PolygonMasks(bad)


def test_polygons_are_copied_to_float64():
    source = np.arange(6, dtype=np.float32)
    masks = PolygonMasks([[source, torch.arange(6)]])
    source[:] = 0
    assert all(p.dtype == np.float64 for p in masks.polygons[0])
    assert masks.polygons[0][0].tolist() == masks.polygons[0][1].tolist() == [0, 1, 2, 3, 4, 5]


def test_roi_masks_paste_into_the_image():
    masks = ROIMasks(torch.ones(2, 14, 14))
    pasted = masks.to_bitmasks(Boxes([[2.0, 3, 10, 7], [0, 0, 4, 4]]), 12, 16)
    expected = torch.zeros(2, 12, 16, dtype=torch.bool)
    expected[0, 3:7, 2:10] = True
    expected[1, :4, :4] = True
    assert torch.equal(pasted.tensor, expected)
    assert len(masks[:1]) == 1
    with pytest.raises(ValueError, match="3 dim|N, M, M"):
        ROIMasks(torch.ones(14, 14))
    with pytest.raises(ValueError, match="shape"):
        masks[0]
