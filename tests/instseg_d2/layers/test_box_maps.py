"""Filled boxes on a coarse grid: against pixels that are drawn and looked up, and the odd boxes."""

import pytest
import torch

from instseg_d2.layers.box_maps import box_maps


def drawn(boxes, height, width, stride):
    maps = torch.zeros(len(boxes), height * stride, width * stride, dtype=torch.bool)
    for canvas, (x0, y0, x1, y1) in zip(maps, boxes.tolist(), strict=True):
        canvas[max(int(y0), 0) : max(int(y1 + 1), 0), max(int(x0), 0) : max(int(x1 + 1), 0)] = True
    return maps[:, stride // 2 :: stride, stride // 2 :: stride]


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_equals_pixels_that_are_drawn_and_looked_up(stride):
    rng = torch.Generator().manual_seed(0)
    corners = torch.rand(200, 2, generator=rng) * torch.tensor([110.0, 80]) - 20
    boxes = torch.cat([corners, corners + stride + 60 * torch.rand(200, 2, generator=rng)], dim=1)
    size = (64 // stride, 96 // stride)
    maps, expected = box_maps(boxes, size, stride), drawn(boxes, *size, stride)
    seen = expected.flatten(1).any(dim=1)
    assert seen.sum() > 150
    assert torch.equal(maps[seen], expected[seen])


def test_thin_boxes_take_the_nearest_points():
    """Points at 2, 6, 10, 14: the box from 7 to 8.9 holds none of them in x, all of the inner ones in y."""
    boxes = torch.tensor([[7.0, 0, 8.4, 16], [3.0, 3.0, 4.5, 4.5], [0.0, 0, 0.5, 0.5]])
    maps = box_maps(boxes, (4, 4), 4)
    assert maps[0].nonzero().tolist() == [[0, 1], [1, 1], [2, 1], [3, 1]]
    assert maps[1].nonzero().tolist() == [[0, 0]]
    assert maps[2].nonzero().tolist() == [[0, 0]]


def test_boxes_beyond_the_image_are_cut_and_those_outside_are_empty():
    boxes = torch.tensor(
        [[-50.0, -50, 5, 5], [-50.0, -50, -3, 20], [20.0, 0, 30, 8], [0.0, 17, 8, 40], [-9, -9, 99, 99]]
    )
    maps = box_maps(boxes, (4, 4), 4)
    assert maps[0].nonzero().tolist() == [[0, 0]]
    assert maps[1:4].sum() == 0
    assert maps[4].all()


def test_no_boxes():
    assert box_maps(torch.zeros(0, 4), (3, 5), 4).shape == (0, 3, 5)
