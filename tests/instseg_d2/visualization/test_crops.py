"""Placements by hand: the crop of a 20 px box is 26 px wide, and 52 px of the picture, so each pixel is 2 x 2."""

import numpy as np
import pytest
import torch
from detectron2.layers.mask_ops import paste_masks_in_image

from instseg_d2.visualization.crops import Crop


@pytest.fixture
def crop():
    return Crop.around([10, 20, 30, 40], side=52)


def test_box_lies_in_the_middle(crop):
    assert (crop.left, crop.top, crop.extent) == (7, 17, 26)
    assert crop.box == (6, 6, 46, 46)
    assert not crop.beyond((60, 80)).any()
    long = Crop.around([10, 20, 50, 30], side=104)
    assert (long.left, long.top, long.extent) == (4, -1, 52)
    assert long.box == (12, 42, 92, 62)


def test_image_and_map_at_their_pixels(crop):
    plane = np.arange(60 * 80, dtype=np.float32).reshape(60, 80)
    placed = crop.place(plane)
    assert (placed[::2, ::2] == plane[17:43, 7:33]).all()
    assert (placed[1::2, 1::2] == plane[17:43, 7:33]).all()
    image = np.zeros((60, 80, 3), np.uint8)
    image[20:40, 10:30] = 200
    picture = crop.of_image(image, 0)
    assert picture.shape == (52, 52, 3)
    assert (picture[10:42, 10:42] == 200).all()
    assert (picture[:2] == 0).all()


def test_what_lies_outside_of_the_image():
    crop = Crop.around([0, 40, 20, 60], side=52)
    assert (crop.left, crop.top) == (-3, 37)
    beyond = crop.beyond((60, 80))
    assert beyond[:, :6].all()
    assert beyond[46:].all()
    assert not beyond[:46, 6:].any()
    assert (np.isnan(crop.place(np.ones((60, 80), bool))) == beyond).all()
    assert (crop.of_image(np.zeros((60, 80, 3), np.uint8), 225)[beyond.nonzero()][:, 0] > 100).mean() > 0.9


def test_cells_relative_to_the_box(crop):
    cells = np.array([[True, False], [False, False]])
    placed = crop.place(cells[None])
    assert (placed[6:26, 6:26] == 1).all()
    assert (placed[6:46, 26:46] == 0).all()
    assert (placed[26:46, 6:46] == 0).all()
    outside = np.ones((52, 52), bool)
    outside[6:46, 6:46] = False
    assert (np.isnan(placed) == outside).all()
    smooth = crop.place(cells[None].astype(np.float32))
    assert (smooth[6:16, 6:16] == 1).all()  # as far as the centre of the cell
    assert smooth[20, 25] == pytest.approx((0.5 + 0.25 / 10) * (0.75 + 0.25 / 10), abs=0.03)


def test_floats_are_placed_as_masks_are_pasted():
    crop = Crop.around([10.3, 20.6, 47.1, 39.2], side=150)
    cells = torch.rand(1, 7, 7, generator=torch.Generator().manual_seed(0))
    expected = paste_masks_in_image(cells, torch.tensor([crop.box]), (150, 150), threshold=-1)[0].numpy() / 255
    placed = crop.place(cells.numpy())
    x0, y0, x1, y1 = crop.box
    margin_x, margin_y = np.ceil((x1 - x0) / 14), np.ceil((y1 - y0) / 14)  # pasting fades within half a cell
    inner = slice(int(y0 + margin_y) + 1, int(y1 - margin_y)), slice(int(x0 + margin_x) + 1, int(x1 - margin_x))
    assert placed[inner].size > 3000
    assert np.abs(placed[inner] - expected[inner]).max() < 0.03


@pytest.mark.parametrize("box", [[5, 5, 5, 5], [-9, -9, -4, -4], [0, 0, 80, 60], [79.5, 59.5, 80, 60]])
def test_any_box(box):
    crop = Crop.around(box, side=40)
    assert crop.place(np.ones((60, 80), np.float32)).shape == (40, 40)
    assert crop.place(np.ones((1, 28, 28), np.float32)).shape == (40, 40)
    assert crop.of_image(np.zeros((60, 80, 3), np.uint8), 225).shape == (40, 40, 3)
