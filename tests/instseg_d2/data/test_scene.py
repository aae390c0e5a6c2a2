import dataclasses

import numpy as np
import pytest

from instseg_d2.data.synthetic import CATEGORIES, Camera, Look, Scene, SceneObject, render, sample_scene

GREY = Look(colors=((90.0, 90.0, 90.0), (90.0, 90.0, 90.0)))
RED = Look(colors=((0.0, 0.0, 200.0), (0.0, 0.0, 200.0)))
NAMES = [category.name for category in CATEGORIES]


def disc(x, y, radius, look=RED):
    # The disc of proportion 1 is a circle.
    return SceneObject(category=NAMES.index("disc"), center=(x, y), radius=radius, look=look, proportions=(1.0, 0.0))


def circle_mask(x, y, radius, height=64, width=64):
    rows, columns = np.mgrid[:height, :width] + 0.5
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def test_amodal_mask_is_the_disc_up_to_its_border_pixels():
    mask = render(Scene(64, 64, (disc(30, 20, 12),), GREY)).amodal[0]
    assert mask.sum() == pytest.approx(np.pi * 144, rel=0.01)
    wrong = mask ^ circle_mask(30, 20, 12)
    border = circle_mask(30, 20, 12.75) & ~circle_mask(30, 20, 11.25)
    assert not (wrong & ~border).any()


def test_nearest_object_hides_the_others():
    near, far = disc(26, 32, 10), disc(38, 32, 10)
    drawn = render(Scene(64, 64, (near, far), GREY))
    alone = render(Scene(64, 64, (far,), GREY))
    np.testing.assert_array_equal(drawn.visible[0], drawn.amodal[0])
    np.testing.assert_array_equal(drawn.amodal[1], alone.amodal[0])
    assert drawn.covered[0] == 0
    # Lens of two circles of radius 10 at distance 12: 2 r^2 acos(d / 2r) - d / 2 * sqrt(4 r^2 - d^2) = 89.5.
    assert drawn.covered[1] == pytest.approx(89.5 / (np.pi * 100), abs=0.02)


def test_visible_is_amodal_less_all_nearer_ones_by_brute_force():
    drawn = render(sample_scene(np.random.default_rng(3), 64, 64, objects=(8, 8)))
    assert len(drawn.amodal) == 8
    owner = np.full((64, 64), -1)
    for row in range(64):
        for column in range(64):
            owners = [n for n in range(8) if drawn.amodal[n, row, column]]
            owner[row, column] = owners[0] if owners else -1
    for n in range(8):
        np.testing.assert_array_equal(drawn.visible[n], owner == n)
        assert drawn.covered[n] == pytest.approx(1 - (owner == n).sum() / drawn.amodal[n].sum())
    assert (drawn.covered > 0.2).any()


def test_ring_has_a_hole_that_shows_what_is_behind():
    ring = SceneObject(category=NAMES.index("ring"), center=(32, 32), radius=14, look=RED, proportions=(1.0, 1.0))
    drawn = render(Scene(64, 64, (ring, disc(32, 32, 6)), GREY))
    assert not drawn.amodal[0, 32, 32]
    assert drawn.visible[1, 32, 32]
    assert drawn.covered[1] < 0.05


def test_object_is_cut_at_the_frame_and_may_lie_outside():
    drawn = render(Scene(64, 64, (disc(0, 32, 10), disc(-40, 32, 10)), GREY))
    assert drawn.amodal[0].sum() == pytest.approx(np.pi * 50, rel=0.05)
    assert drawn.amodal[1].sum() == 0
    assert drawn.covered[1] == 1


def test_colours_land_where_the_masks_say():
    drawn = render(Scene(64, 64, (disc(32, 32, 12),), GREY))
    inside = circle_mask(32, 32, 10)
    outside = ~circle_mask(32, 32, 14)
    assert (drawn.image[inside] == (0, 0, 200)).all()
    assert (drawn.image[outside] == 90).all()


def test_moved_copy_draws_the_same_object_elsewhere():
    scene = sample_scene(np.random.default_rng(5), 96, 96, objects=(1, 1))
    item = dataclasses.replace(scene.objects[0], center=(40.0, 45.0))
    moved = dataclasses.replace(item, center=(47.0, 50.0))
    plain = dataclasses.replace(scene, background=GREY, clutter=(), shadow=0.0, camera=Camera())
    first, second = (render(dataclasses.replace(plain, objects=(one,))) for one in (item, moved))
    np.testing.assert_array_equal(first.amodal[0, :-5, :-7], second.amodal[0, 5:, 7:])
    difference = first.image[:-5, :-7].astype(int) - second.image[5:, 7:]
    assert abs(difference).max() <= 1


def test_scene_without_objects():
    drawn = render(Scene(32, 48, (), GREY))
    assert drawn.image.shape == (32, 48, 3)
    assert drawn.visible.shape == (0, 32, 48)
    assert drawn.covered.shape == (0,)


def test_unknown_texture_is_named():
    with pytest.raises(ValueError, match="unknown texture 'fur'"):
        render(Scene(32, 32, (), dataclasses.replace(GREY, texture="fur")))
