"""Centers of mass by hand."""

import torch

from instseg_d2.layers.mask_centers import mass_centers


def test_filled_box_has_its_own_center():
    masks = torch.zeros(2, 20, 30, dtype=torch.bool)
    masks[0, 2:9, 4:24] = True
    masks[1, 19, 29] = True
    assert mass_centers(masks).tolist() == [[14.0, 5.5], [29.5, 19.5]]


def test_two_parts_weigh_by_their_area():
    """4 pixels around (1, 1), 12 pixels around (8, 5.5): x = (4 + 96) / 16, y = (4 + 66) / 16."""
    masks = torch.zeros(1, 10, 12, dtype=torch.bool)
    masks[0, 0:2, 0:2] = True
    masks[0, 4:7, 6:10] = True
    assert mass_centers(masks).tolist() == [[6.25, 4.375]]


def test_soft_masks_weigh_by_value():
    masks = torch.zeros(1, 1, 4)
    masks[0, 0, 0], masks[0, 0, 3] = 0.25, 0.75
    torch.testing.assert_close(mass_centers(masks), torch.tensor([[0.25 * 0.5 + 0.75 * 3.5, 0.5]]))


def test_empty_mask_has_no_center_and_no_masks_none():
    masks = torch.zeros(2, 4, 4, dtype=torch.bool)
    masks[1, 0, 0] = True
    centers = mass_centers(masks)
    assert centers[0].isnan().all()
    assert centers[1].tolist() == [0.5, 0.5]
    assert mass_centers(masks[:0]).shape == (0, 2)
