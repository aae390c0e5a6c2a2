from dataclasses import replace

import numpy as np
import pytest

from instseg_d2.data.synthetic import CATEGORIES
from instseg_d2.data.synthetic.motion import sample_video, smooth, to_material, to_pixels, view_between
from instseg_d2.data.synthetic.outlines import unit_outline
from instseg_d2.data.synthetic.scene import sample_object


def plan(seed=0, frames=24, size=128):
    return sample_video(np.random.default_rng(seed), frames, size, size)


def test_spline_by_hand():
    # At a quarter of the middle segment, slopes 1/2 at both ends: the Hermite polynomial gives
    # (s^3 - 2 s^2 + s) / 2 + (3 s^2 - 2 s^3) + (s^3 - s^2) / 2 at s = 1/4.
    values = smooth(np.array([0.0, 0.0, 1.0, 1.0]), 13)
    np.testing.assert_allclose(values[[0, 4, 8, 12]], [0, 0, 1, 1], atol=1e-12)
    s = 0.25
    assert values[5] == pytest.approx((s**3 - 2 * s**2 + s) / 2 + 3 * s**2 - 2 * s**3 + (s**3 - s**2) / 2)
    assert values[6] == pytest.approx(0.5)


@pytest.mark.parametrize("knots", [2, 3, 5])
def test_spline_through_points_on_a_line_is_that_line(knots):
    line = np.linspace([1.0, -2.0], [5.0, 6.0], knots)
    np.testing.assert_allclose(smooth(line, 17), np.linspace([1.0, -2.0], [5.0, 6.0], 17))


@pytest.mark.parametrize("category", range(len(CATEGORIES)))
def test_material_coordinates_of_the_border_are_the_undeformed_outline(category):
    rng = np.random.default_rng(category)
    for _ in range(4):
        item = sample_object(rng, category, (40.0, 50.0), 17.0)
        outline = unit_outline(item.category, item.proportions)
        for border, contour in zip(item.contours(), outline, strict=True):
            np.testing.assert_allclose(to_pixels(item, contour), border)
            np.testing.assert_allclose(to_material(item, border), contour, atol=1e-9)


def test_pose_by_hand():
    item = sample_object(np.random.default_rng(0), 0, (10.0, 20.0), 4.0)
    item = replace(item, angle=np.pi / 2, stretch=2.0, shear=0.5, bend=0.0, waves=())
    # (1, 2) -> shape (2 * 1 + 0.5 * 2, 2 / 2) = (3, 1) -> a quarter turn clockwise on screen (-1, 3) -> times 4.
    np.testing.assert_allclose(to_pixels(item, np.array([[1.0, 2.0]])), [[10 - 4, 20 + 12]])
    # Bent by 0.5: (1, 2) -> (1, 2.5) -> (3.25, 1.25).
    item = replace(item, bend=0.5)
    np.testing.assert_allclose(to_pixels(item, np.array([[1.0, 2.0]])), [[10 - 5, 20 + 13]])


def test_every_object_of_a_plan_keeps_its_substance():
    for states in plan(3).objects:
        points = np.random.default_rng(0).uniform(-1, 1, (50, 2))
        for state in states:
            np.testing.assert_allclose(to_material(state, to_pixels(state, points)), points, atol=1e-9)
            assert state.category == states[0].category
            assert state.proportions == states[0].proportions


def test_view_between_frames():
    views = np.array([[[1.0, 0, 3], [0, 1, -2]], [[2.0, 0, 0], [0, 2, 1]]])
    # A pixel (5, 5) of frame 0 shows the plane at (2, 7), which frame 1 shows at (4, 15).
    move = view_between(views, 0, 1)
    np.testing.assert_allclose(move @ [5, 5, 1], [4, 15])
    np.testing.assert_allclose(view_between(views, 1, 0) @ [4, 15, 1], [5, 5])


def test_plan_depends_on_the_generator_alone_and_scales_with_the_size():
    one, two, small = plan(7), plan(7), plan(7, size=64)
    assert one.objects == two.objects
    np.testing.assert_array_equal(one.views, two.views)
    assert plan(8).objects != one.objects
    np.testing.assert_allclose(small.views[..., 2] * 2, one.views[..., 2], atol=1e-9)
    for little, large in zip(small.objects, one.objects, strict=True):
        np.testing.assert_allclose([2 * np.array(s.center) for s in little], [s.center for s in large], atol=1e-9)
        np.testing.assert_allclose([2 * s.radius for s in little], [s.radius for s in large])


def test_ids_are_a_permutation_apart_from_the_depth():
    plans = [plan(seed) for seed in range(12)]
    for one in plans:
        assert sorted(one.ids) == list(range(1, len(one.objects) + 1))
    assert any(one.ids != tuple(sorted(one.ids)) for one in plans)


@pytest.mark.parametrize("frames", [2, 5, 24, 60])
def test_motion_is_smooth_and_no_faster_in_longer_videos(frames):
    for seed in range(6):
        one = plan(seed, frames)
        centers = np.array([[state.center for state in states] for states in one.objects])
        assert centers.shape == (len(one.objects), frames, 2)
        assert one.frames == frames
        speed = np.linalg.norm(np.diff(centers, axis=1), axis=2)
        assert speed.max() < 0.25 * 128
        if frames >= 24:
            assert np.median(speed) < 0.05 * 128
            acceleration = np.linalg.norm(np.diff(centers, 2, axis=1), axis=2)
            assert acceleration.max() < 0.08 * 128


def test_size_shape_light_and_camera_change_over_time():
    plans = [plan(seed) for seed in range(12)]
    for one in plans:
        for states in one.objects:
            for name in ("radius", "angle", "stretch", "shear"):
                assert np.ptp([getattr(state, name) for state in states]) > 0.005
            assert np.ptp([state.look.colors[0][1] / states[0].look.colors[0][1] for state in states]) > 0.01
    assert max(np.ptp(one.gains, axis=0).max() for one in plans) > 0.05


def test_some_cameras_stand_still_and_most_move():
    views = [plan(seed, frames=4).views for seed in range(40)]
    still = [np.array_equal(view[0], view[-1]) for view in views]
    assert 1 <= sum(still) <= 15
    assert max(np.abs(view[-1] - view[0])[:, 2].max() for view in views) > 5
