"""Bitmaps with shared pixels do what detectron2's do."""

import copy
import pickle

import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances

from instseg_d2.data import indexed_masks
from instseg_d2.data.indexed_masks import IndexedBitMasks, share_bitmaps


@pytest.fixture
def pixels():
    torch.manual_seed(0)
    masks = torch.zeros(5, 40, 60, dtype=torch.bool)
    for mask in masks[:4]:
        x, y = torch.randint(0, 30, (2,)).tolist()
        mask[y : y + 9, x : x + 14] = torch.rand(9, 14)[: mask[y : y + 9].shape[0]] > 0.3
    return masks


ITEMS = [
    2,
    -1,
    slice(1, 4),
    torch.tensor([3, 0, 0, 2, 3]),
    torch.tensor([True, False, True, True, False]),
    torch.zeros(0, dtype=torch.int64),
]


@pytest.mark.parametrize("item", ITEMS, ids=str)
def test_rows_are_those_of_bitmasks(pixels, item):
    theirs, ours = BitMasks(pixels)[item], IndexedBitMasks(pixels)[item]
    assert len(ours) == len(theirs)
    assert ours.image_size == theirs.image_size
    assert torch.equal(ours.tensor, theirs.tensor)
    assert torch.equal(ours.nonempty(), theirs.nonempty())
    assert torch.equal(ours.get_bounding_boxes().tensor, theirs.get_bounding_boxes().tensor)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert ours.pixels.data_ptr() == pixels.data_ptr()


@pytest.mark.parametrize("bytes_at_a_time", [1, 2 * 4 * 40 * 60, 2**30])
def test_crops_are_those_of_bitmasks(pixels, bytes_at_a_time, monkeypatch):
    """For rows of rows, in parts and as a whole, with boxes that leave the image."""
    monkeypatch.setitem(indexed_masks._FLOAT_BYTES, "cpu", bytes_at_a_time)
    rows = torch.tensor([3, 0, 0, 2, 4, 3, 1, 1, 2])
    boxes = torch.rand(9, 4) * 30
    boxes[:, 2:] += boxes[:, :2] + 4
    boxes[0] = torch.tensor([-5.0, -3.0, 70.0, 50.0])
    chosen = torch.tensor([8, 1, 2, 5, 5, 0])
    theirs, ours = BitMasks(pixels)[rows][chosen], IndexedBitMasks(pixels)[rows][chosen]
    expected = theirs.crop_and_resize(boxes[chosen], 14)
    assert torch.equal(ours.crop_and_resize(boxes[chosen], 14), expected)
    assert 0 < expected.float().mean() < 1


def test_nothing_to_crop(pixels):
    empty = torch.zeros(0, dtype=torch.int64)
    assert IndexedBitMasks(pixels)[empty].crop_and_resize(torch.zeros(0, 4), 7).shape == (0, 7, 7)
    assert IndexedBitMasks(pixels[:0]).crop_and_resize(torch.zeros(0, 4), 7).shape == (0, 7, 7)
    assert IndexedBitMasks(pixels[:0]).get_bounding_boxes().tensor.shape == (0, 4)


def test_field_of_instances(pixels):
    boxes = Boxes(torch.arange(20.0).reshape(5, 4))
    plain = Instances((40, 60), gt_masks=BitMasks(pixels), gt_boxes=boxes, gt_occluders=BitMasks(~pixels))
    shared = share_bitmaps(copy.deepcopy(plain))
    assert isinstance(shared.gt_masks, IndexedBitMasks)
    assert isinstance(shared.gt_boxes, Boxes)
    rows = torch.tensor([4, 4, 1])
    moved = pickle.loads(pickle.dumps(shared[rows].to("cpu")))
    joined = Instances.cat([moved, shared[rows]])
    for name in ("gt_masks", "gt_occluders"):
        assert torch.equal(moved.get(name).tensor, plain[rows].get(name).tensor)
        assert torch.equal(joined.get(name).tensor, Instances.cat([plain[rows], plain[rows]]).get(name).tensor)
