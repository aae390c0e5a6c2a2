"""What of a crop's canvas counts as image; the colors themselves are tested with the losses that use them."""

import pytest
import torch
from detectron2.structures import ImageList

from instseg_d2.modeling.meta_arch.image_colors import ColorNeighbors


def valid_points(item, **settings):
    """(H, W) bool on a grid of stride 4: points that others of the same color are similar to."""
    image = torch.full((3, 32, 32), 128, dtype=torch.uint8)
    images = ImageList(torch.zeros(1, 3, 32, 32), [(32, 32)])
    similarity = ColorNeighbors(**settings).similarity([{"image": image, **item}], images, 4)[0]
    # A point is the right neighbor of one two to its left, or the left neighbor of one two to its right.
    right, left = similarity[4], similarity[3]
    found = torch.zeros(8, 8, dtype=torch.bool)
    found[:, 2:] |= right[:, :6] > 0
    found[:, :6] |= left[:, 2:] > 0
    return found


def rows_and_columns(found):
    return found.any(dim=1).nonzero().flatten().tolist(), found.any(dim=0).nonzero().flatten().tolist()


@pytest.mark.parametrize(
    ("box", "rows", "columns"),
    [
        ((0.0, 0.0, 32.0, 32.0), range(8), range(8)),
        # Smaller than the canvas: padded at the right and at the bottom.
        ((0.0, 0.0, 20.0, 12.0), range(3), range(5)),
        # Larger: cut on all sides.
        ((-9.0, -3.0, 60.0, 40.0), range(8), range(8)),
        # Cut at the left, padded at the bottom.
        ((-30.0, 0.0, 32.0, 24.0), range(6), range(8)),
        ((8.0, 4.0, 32.0, 32.0), range(1, 8), range(2, 8)),
    ],
)
def test_padding_of_a_crop_is_not_image(box, rows, columns):
    found = valid_points({"image_box": box}, bottom_pixels_removed=0)
    assert rows_and_columns(found) == (list(rows), list(columns))


@pytest.mark.parametrize(("bottom", "rows"), [(32.0, 6), (24.0, 4), (80.0, 8), (40.0, 7)])
def test_the_strip_is_at_the_bottom_of_the_original_image(bottom, rows):
    """10 px of 40 are a quarter of the image's height, wherever its bottom lies on the canvas, or beyond it."""
    found = valid_points({"image_box": (0.0, 0.0, 32.0, bottom), "height": 40})
    assert found.any(dim=1).sum() == rows


def test_without_a_box_the_whole_input_is_image():
    assert valid_points({}, bottom_pixels_removed=0).all()
    assert valid_points({"height": 64}).any(dim=1).sum() == 7  # 5 px of 32


@pytest.mark.parametrize("settings", [{"input_format": "L"}, {"threshold": 0.0}])
def test_mistakes(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        ColorNeighbors(**settings)
