import numpy as np
import pytest
import torch

from instseg_d2.inpainting.crops import Crop


def box(height, width, rows, columns):
    mask = np.zeros((height, width), dtype=bool)
    mask[rows[0] : rows[1], columns[0] : columns[1]] = True
    return mask


def test_box_is_enlarged_and_ends_at_the_border():
    crop = Crop.around(box(300, 400, (100, 200), (310, 390)), expand=0.3, area=10**6)
    # 100 rows and 30 more; 80 columns and 24 more, of which only 10 fit at the right.
    assert crop == Crop(top=85, left=298, bottom=215, right=400, height=130, width=102)
    assert crop.is_native
    small = Crop.around(box(300, 400, (10, 11), (200, 201)), expand=0.3, area=10**6)
    assert small.box_size == (43, 64)  # of 64 rows, 21 would lie above the image


def test_large_surroundings_are_scaled_down_to_an_area():
    crop = Crop.around(np.ones((200, 400), dtype=bool), expand=0.3, area=20_000)
    assert (crop.height, crop.width) == (100, 200)
    assert not crop.is_native


@pytest.mark.parametrize("area", [10**6, 1500])
def test_frames_keep_their_colours(area):
    image = np.zeros((80, 100, 3), np.uint8)
    image[:] = 10, 120, 250
    crop = Crop.around(box(80, 100, (20, 60), (30, 70)), expand=1.0, area=area)
    frames = crop.cut_frames([image, image])
    assert frames.shape == (2, 3, crop.height, crop.width)
    np.testing.assert_allclose(frames[1, :, 0, 0], np.array([250, 120, 10]) / 127.5 - 1, atol=1e-5)
    back = crop.put_colours(frames[0], torch.ones(1, crop.height, crop.width))
    assert back.shape == (*crop.box_size, 3)
    assert (back == image[crop.window]).all()


def test_native_frames_come_back_bit_for_bit():
    image = np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)
    crop = Crop.around(box(90, 90, (20, 60), (30, 80)), expand=0.3, area=10**6)
    back = crop.put_colours(crop.cut_frames([image])[0], torch.ones(1, crop.height, crop.width))
    assert (back == image[crop.window]).all()


def test_enlarged_colours_do_not_mix_with_what_is_unknown():
    crop = Crop(0, 0, 40, 40, 10, 10)
    frame = torch.full((3, 10, 10), -1.0)
    frame[0] = 1.0
    known = torch.zeros(1, 10, 10)
    known[..., :5] = 1
    frame[..., 5:] = 0.3
    back = crop.put_colours(frame, known)
    assert (back[:, :20] == (0, 0, 255)).all()


def test_every_pixel_of_a_hole_lies_in_one_at_working_size():
    """Of any size and scale: otherwise hidden pixels would have no colour."""
    rng = np.random.default_rng(1)
    for height, width, area in ((71, 93, 1000), (64, 100, 3333), (97, 67, 5000)):
        mask = rng.random((height, width)) < 0.02
        crop = Crop.around(np.ones_like(mask), expand=0, area=area)
        small = crop.cut_masks([mask], any_pixel=True)
        assert crop.put_mask(small[0])[mask].all()
        assert small.mean() < 0.6


def test_masks_at_working_size_follow_the_majority():
    mask = np.zeros((80, 80), dtype=bool)
    mask[:, :40] = True
    mask[::2, 40:] = True
    mask[1, 0] = False
    crop = Crop(0, 0, 80, 80, 20, 20)
    assert crop.cut_masks([mask]).all()
    mask[0::4, 40:] = False
    assert torch.equal(crop.cut_masks([mask])[0, 0].sum(dim=0), torch.tensor([20.0] * 10 + [0.0] * 10))
    assert (crop.put_mask(crop.cut_masks([mask])[0], smooth=True)[:, :38]).all()


def test_flow_is_cut_and_put_back_in_pixels():
    crop = Crop(10, 20, 50, 100, 20, 40)
    flow = torch.empty(3, 2, 60, 120)
    flow[:, 0], flow[:, 1] = 6.0, -2.0
    small = crop.cut_flow(flow)
    assert small.shape == (3, 2, 20, 40)
    torch.testing.assert_close(small[0, :, 3, 3], torch.tensor([3.0, -1.0]))
    back = crop.put_flow(small, (60, 120))
    torch.testing.assert_close(back[(..., *crop.window)], flow[(..., *crop.window)])
    assert back[..., :10, :].abs().sum() == 0
    assert crop.cut_flow(flow[:0]).shape == (0, 2, 20, 40)
