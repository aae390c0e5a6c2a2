import pytest
import torch
from torch.nn import functional as F

from instseg_d2.layers.mask_scaling import enlarge_masks, shrink_masks


def test_two_of_the_four_middle_pixels_make_a_cell():
    masks = torch.zeros(3, 8, 8, dtype=torch.bool)
    masks[0, 1, 1] = masks[0, 2, 2] = True  # two of the middle of the first cell
    masks[1, 5, 6] = True  # one of the middle of the last
    masks[2, 0, :] = masks[2, 3, :] = True  # none
    small = shrink_masks(masks, stride=4, size=(2, 2))
    assert small.tolist() == [[[True, False], [False, False]], [[False] * 2] * 2, [[False] * 2] * 2]


@pytest.mark.parametrize("size", [(24, 32), (23, 29), (21, 30)])
def test_shrinking_is_bilinear_interpolation_of_the_padded_mask(size):
    masks = torch.rand(4, *size, generator=torch.Generator().manual_seed(0)) < 0.5
    padded = F.pad(masks.float(), (0, 32 - size[1], 0, 24 - size[0]))
    expected = F.interpolate(padded[None], scale_factor=0.25, mode="bilinear")[0] >= 0.5
    assert torch.equal(shrink_masks(masks, stride=4, size=(6, 8)), expected)


def test_beyond_the_image_is_background():
    small = shrink_masks(torch.ones(1, 8, 8, dtype=torch.bool), stride=4, size=(3, 4))
    assert small.sum() == 4
    assert small[0, :2, :2].all()


def test_a_rectangle_on_the_grid_survives_both_ways():
    masks = torch.zeros(1, 32, 32, dtype=torch.bool)
    masks[0, 8:24, 4:28] = True
    small = shrink_masks(masks, stride=4, size=(8, 8))
    large = enlarge_masks(small.float(), stride=4, image_size=(32, 32), output_size=(32, 32))
    # Interpolation cuts the corners: the border runs on the rectangle's own.
    assert torch.equal(large.any(dim=1), masks.any(dim=1))
    assert torch.equal(large.any(dim=2), masks.any(dim=2))
    assert (large != masks).sum() <= 12


def test_padding_is_cut_off_before_the_output_is_made():
    soft = torch.zeros(1, 2, 4)
    soft[:, :, 2:] = 1  # the right half, which is padding
    cut = enlarge_masks(soft, stride=4, image_size=(8, 8), output_size=(16, 16), threshold=0.9)
    assert not cut.any()
    whole = enlarge_masks(soft, stride=4, image_size=(8, 16), output_size=(16, 32))
    assert whole[0, :, 16:].all()
    assert not whole[0, :, :15].any()


def test_parts_give_the_same_as_the_whole():
    soft = torch.rand(7, 4, 5, generator=torch.Generator().manual_seed(0))
    sizes = {"stride": 4, "image_size": (15, 18), "output_size": (23, 31)}
    whole = enlarge_masks(soft, **sizes)
    assert torch.equal(enlarge_masks(soft, **sizes, max_elements=2 * 23 * 31), whole)


def test_no_masks():
    assert shrink_masks(torch.zeros(0, 8, 8, dtype=torch.bool), stride=4, size=(2, 2)).shape == (0, 2, 2)
    none = enlarge_masks(torch.zeros(0, 2, 2), stride=4, image_size=(8, 8), output_size=(5, 6))
    assert none.shape == (0, 5, 6)
    assert none.dtype == torch.bool
