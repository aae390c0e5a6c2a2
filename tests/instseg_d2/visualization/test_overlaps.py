"""Overlaps on an image: caption, colour and the shaded pixels of objects whose O is known by hand."""

import numpy as np
import pytest

from instseg_d2.visualization import overlaps
from instseg_d2.visualization.overlaps import HIGH_COLOUR, LOW_COLOUR, draw_overlaps, filling_masks

GREY = 100
# 10 x 10, of which the second covers 3 columns and the third a corner of 2 x 2; the fourth is alone.
BOXES = np.array([[10, 40, 20, 50], [17, 36, 29, 50], [10, 48, 12, 54], [40, 40, 50, 56]], dtype=float)
OVERLAPS = [0.30, 30 / 168, 4 / 12, 0.0]


def filled(boxes=BOXES, size=(60, 80)):
    masks = np.zeros((len(boxes), *size), dtype=bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.astype(int), strict=True):
        mask[y0:y1, x0:x1] = True
    return masks


@pytest.fixture
def captions(monkeypatch):
    """Texts with their corners and colours in the order in which they are written, in the place of the writing."""
    found = []
    monkeypatch.setattr(
        overlaps,
        "write_label",
        lambda canvas, text, corner, colour: found.append((text, corner.tolist(), colour.tolist())),
    )
    return found


def test_the_other_mask_with_most_pixels_counts():
    filling = filling_masks(BOXES, filled())
    expected = np.zeros_like(filling)
    expected[0, 40:50, 17:20] = True
    expected[1, 40:50, 17:20] = True
    expected[2, 48:50, 10:12] = True
    assert np.array_equal(filling, expected)
    areas = filling.sum(axis=(1, 2)) / np.prod(BOXES[:, 2:] - BOXES[:, :2], axis=1)
    assert areas == pytest.approx(OVERLAPS)


def test_boxes_beyond_the_image():
    boxes = np.array([[-4.0, -4.0, 6.0, 6.0], [2.0, 2.0, 90.0, 90.0]])
    filling = filling_masks(boxes, filled(boxes.clip(0)))
    assert filling.sum(axis=(1, 2)).tolist() == [16, 16]
    assert filling_masks(np.zeros((0, 4)), np.zeros((0, 6, 8), bool)).shape == (0, 6, 8)


def test_captions_and_colours(captions):
    image = np.full((60, 80, 3), GREY, np.uint8)
    draw_overlaps(image, BOXES, filled(), OVERLAPS, ["cup", "pear", "leaf", "fork"], side=160)
    assert captions == [
        ("fork 0.00", [80, 80], LOW_COLOUR.tolist()),
        ("pear 0.18", [34, 72], LOW_COLOUR.tolist()),
        ("cup 0.30", [20, 80], HIGH_COLOUR.tolist()),
        ("leaf 0.33", [20, 96], HIGH_COLOUR.tolist()),
    ]
    captions.clear()
    draw_overlaps(image, BOXES, filled(), OVERLAPS, threshold=0.31)
    assert [(text, colour) for text, _, colour in captions] == [
        ("0.00", LOW_COLOUR.tolist()),
        ("0.18", LOW_COLOUR.tolist()),
        ("0.30", LOW_COLOUR.tolist()),
        ("0.33", HIGH_COLOUR.tolist()),
    ]


@pytest.mark.usefixtures("captions")
def test_pixels():
    image = np.full((60, 80, 3), GREY, np.uint8)
    # A mask smaller than its box: its outline is not the box.
    masks = filled()
    masks[3, :, 40:44] = False
    picture = draw_overlaps(image, BOXES, masks, OVERLAPS, side=80)
    assert picture.shape == (60, 80, 3)
    assert (image == GREY).all()
    colour = {False: LOW_COLOUR, True: HIGH_COLOUR}
    # Left edges of the boxes, and the left edge of the last mask.
    for index, high in enumerate([True, False, True, False]):
        x, y = BOXES[index, :2].astype(int)
        assert (picture[y + 1, x] == colour[high]).all()
    assert (picture[45, 44] == LOW_COLOUR).all()
    # Three columns of the first box are shaded once for each of the two; the edges of both boxes cover the outer ones.
    once = (GREY * 0.6 + HIGH_COLOUR * 0.4).astype(np.uint8)
    assert (picture[45, 18] == (once * 0.6 + LOW_COLOUR * 0.4).astype(np.uint8)).all()
    assert (picture[45, 14] == GREY).all()
    assert (picture[45, 24] == GREY).all()
    assert (picture[48, 47] == GREY).all()


def test_scale_and_nothing_to_draw():
    image = np.full((60, 80, 3), GREY, np.uint8)
    empty = draw_overlaps(image, np.zeros((0, 4)), np.zeros((0, 60, 80), bool), [], side=160)
    assert empty.shape == (120, 160, 3)
    assert (empty == GREY).all()


def test_masks_of_another_image():
    with pytest.raises(ValueError, match="cannot be drawn over"):
        draw_overlaps(np.zeros((40, 80, 3), np.uint8), BOXES, filled(), OVERLAPS)
