"""Errors of visible masks, to test with."""

import numpy as np
import pytest

from instseg_d2.data.video_inpainting.clips import AS_BUILT, InpaintingClips
from instseg_d2.data.video_inpainting.exact import occvideo_tracks
from instseg_d2.data.video_inpainting.keys import generator_of
from instseg_d2.data.video_inpainting.mask_errors import MaskErrors


@pytest.fixture
def masks():
    """Two frames with parts of 10 x 10 and of 6 x 4 pixels."""
    masks = np.zeros((2, 40, 40), dtype=bool)
    masks[:, 10:20, 10:20] = True
    masks[:, 30:36, 30:34] = True
    return masks


def spoiled(masks, seed=0, **errors):
    return MaskErrors(**errors)(generator_of(seed), masks)


def test_no_errors_by_default(masks):
    assert np.array_equal(spoiled(masks), masks)


@pytest.mark.parametrize("pixels", [1, 2])
def test_dilation_and_erosion(masks, pixels):
    wider = spoiled(masks, grow=pixels)
    assert wider[0, 10 - pixels, 12:18].all()
    assert not wider[0, 10 - pixels - 1].any()
    narrower = spoiled(masks, grow=-pixels)
    assert narrower[0, :25].sum() >= (10 - 2 * pixels) ** 2
    assert not narrower[0, 10 + pixels - 1].any()
    assert (narrower <= masks).all()
    assert (masks <= wider).all()


def test_erosion_goes_as_far_as_something_is_left(masks):
    most = spoiled(masks, grow=-4)
    assert 0 < most[0].sum() < spoiled(masks, grow=-3)[0].sum()
    assert np.array_equal(spoiled(masks, grow=-9), most)
    assert not spoiled(np.zeros_like(masks), grow=-2).any()


def test_parts_are_lost_but_never_all(masks):
    areas = {int(frame.sum()) for seed in range(40) for frame in spoiled(masks, seed, lose=0.5)}
    assert areas == {100, 24, 124}
    assert {int(frame.sum()) for seed in range(40) for frame in spoiled(masks, seed, lose=1.0)} == {100, 24}
    assert not spoiled(np.zeros_like(masks), lose=1.0).any()


def test_a_part_too_much(masks):
    more = spoiled(masks, add=1.0)
    assert (masks <= more).all()
    assert (more.sum(axis=(1, 2)) > masks.sum(axis=(1, 2))).all()
    assert not spoiled(np.zeros_like(masks), add=1.0).any()


def test_clips_with_errors_are_the_same_each_time_and_have_a_true_hole():
    tracks = occvideo_tracks(videos=2, seed=1, frames=6, size=(64, 96))
    plain, wrong, again = (
        InpaintingClips(
            tracks, length=4, size=(64, 96), erasing=AS_BUILT, consecutive=1.0, flip=0.0, seed=0, errors=errors
        )[0]
        for errors in (None, *2 * [MaskErrors(grow=2, add=0.5)])
    )
    assert (wrong["visible"] == again["visible"]).all()
    assert (wrong["visible"] >= plain["visible"]).all()
    assert (wrong["visible"] != plain["visible"]).any()
    for name in ("frames", "complete", "hole"):
        assert (wrong[name] == plain[name]).all()


def test_chances_are_checked():
    with pytest.raises(ValueError, match="chances"):
        MaskErrors(lose=2)
