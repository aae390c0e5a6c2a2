import hashlib
from dataclasses import replace

import cv2
import numpy as np
import pytest

from instseg_d2.data import DatasetError
from instseg_d2.data.synthetic import CATEGORIES, Look, SceneObject
from instseg_d2.data.synthetic.motion import VideoPlan, to_material, to_pixels
from instseg_d2.data.synthetic.video import composite, occvideo, occvideo_plan, render_video

GREY = Look(colors=((90.0, 90.0, 90.0), (90.0, 90.0, 90.0)))
RED = Look(colors=((0.0, 0.0, 200.0), (0.0, 0.0, 200.0)))
BLUE = Look(colors=((220.0, 0.0, 0.0), (220.0, 0.0, 0.0)))
DISC = [category.name for category in CATEGORIES].index("disc")


def disc(x, y, radius, look=RED):
    # The disc of proportion 1 is a circle.
    return SceneObject(category=DISC, center=(x, y), radius=radius, look=look, proportions=(1.0, 0.0))


def by_hand(*tracks, ids=None, size=64):
    """A noise-free video before a camera that stands still; tracks nearest first."""
    frames = len(tracks[0])
    views = np.tile(np.array([[1.0, 0, 0], [0, 1, 0]]), (frames, 1, 1))
    ids = ids or tuple(range(1, len(tracks) + 1))
    return render_video(VideoPlan(size, size, tuple(map(tuple, tracks)), ids, views, np.ones((frames, 3)), GREY))


def constant_light(plan):
    """The same motion without noise and without changes of brightness."""
    objects = tuple(tuple(replace(state, look=states[0].look) for state in states) for states in plan.objects)
    return replace(plan, objects=objects, gains=np.ones_like(plan.gains), noise=0.0)


def digest(video):
    arrays = (video.images, video.backgrounds, video.visible, video.amodal, video.covered, video.forward_flow)
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


@pytest.fixture(scope="module")
def video():
    return occvideo(1, 3, frames=10)


@pytest.fixture(scope="module")
def steady():
    return [render_video(constant_light(occvideo_plan(1, index, frames=6))) for index in range(3)]


def test_same_seed_same_video_in_any_order():
    forwards = [digest(occvideo(5, index, frames=4, size=64)) for index in range(3)]
    backwards = [digest(occvideo(5, index, frames=4, size=64)) for index in (2, 1, 0)]
    assert forwards == backwards[::-1]
    assert len(set(forwards)) == 3
    assert digest(occvideo(6, 0, frames=4, size=64)) != forwards[0]


def test_shapes_and_types(video):
    count = len(video.ids)
    assert video.images.shape == video.backgrounds.shape == (10, 128, 128, 3)
    assert video.images.dtype == video.backgrounds.dtype == np.uint8
    assert video.amodal.shape == video.visible.shape == (10, count, 128, 128)
    assert video.amodal.dtype == video.visible.dtype == bool
    assert video.covered.shape == (10, count)
    assert video.ids.dtype == video.categories.dtype == np.int64
    assert video.forward_flow.shape == video.backward_flow.shape == (9, 128, 128, 2)
    assert video.forward_flow.dtype == np.float32
    wide = occvideo(0, 0, frames=3, size=(40, 64))
    assert wide.images.shape == (3, 40, 64, 3)
    assert wide.flow(2, -2).shape == (40, 64, 2)


def test_visible_is_amodal_less_the_union_of_nearer_ones(video):
    for frame in (0, 5, 9):
        nearer = np.zeros((128, 128), dtype=bool)
        for number in range(len(video.ids)):
            amodal = video.amodal[frame, number]
            np.testing.assert_array_equal(video.visible[frame, number], amodal & ~nearer)
            hidden = (amodal & nearer).sum() / max(amodal.sum(), 1)
            assert video.covered[frame, number] == pytest.approx(hidden if amodal.any() else 1.0)
            nearer |= amodal
    assert (video.covered > 0.2).any()


def test_masks_are_those_of_the_outlines(video):
    for number, states in enumerate(video.plan.objects):
        contours = states[4].contours()
        rows, columns = np.nonzero(video.amodal[4, number])
        for x, y in zip(columns + 0.5, rows + 0.5, strict=True):
            inside = [cv2.pointPolygonTest(c.astype(np.float32), (x, y), True) for c in contours]
            assert inside[0] > -0.75
            assert all(hole < 0.75 for hole in inside[1:])


def test_frame_is_the_composite_of_its_layers_and_noise(video, steady):
    quiet = steady[0]
    for frame in (0, 3):
        layers = [quiet.layer(frame, identity) for identity in quiet.ids]
        np.testing.assert_array_equal(np.rint(composite(quiet.backgrounds[frame], layers)), quiet.images[frame])
        for number, layer in enumerate(layers):
            np.testing.assert_array_equal(layer[..., 3] >= 128, quiet.amodal[frame, number])
    layers = [video.layer(2, identity) for identity in video.ids]
    noise = video.images[2] - composite(video.backgrounds[2], layers)
    unclipped = (video.images[2] > 10) & (video.images[2] < 245)
    assert noise[unclipped].std() == pytest.approx(video.plan.noise, rel=0.1)
    assert abs(noise[unclipped].mean()) < 0.1


def test_composite_by_hand():
    background = np.full((1, 1, 3), 100, np.uint8)
    far, near = np.uint8([[[0, 0, 200, 255]]]), np.uint8([[[250, 0, 0, 51]]])
    # The far one replaces the background, the near one covers a fifth of it.
    np.testing.assert_allclose(composite(background, [near, far]), [[[50, 0, 160]]], atol=1e-4)
    np.testing.assert_array_equal(composite(background, []), background)


def test_frame_without_occluders_shows_the_whole_object(video, steady):
    for one in (video, steady[1]):
        hidden = (one.amodal & ~one.visible).sum(axis=(2, 3))
        frame, number = np.unravel_index(hidden.argmax(), hidden.shape)
        identity = int(one.ids[number])
        occluders = one.occluders(identity)
        assert occluders
        clean = one.without(frame, occluders)
        untouched = np.ones(clean.shape[:2], dtype=bool)
        for other in occluders:
            untouched &= one.layer(frame, other)[..., 3] == 0
        np.testing.assert_array_equal(clean[untouched], one.images[frame][untouched])
        layer = one.layer(frame, identity)
        solid = layer[..., 3] == 255
        assert (solid & ~one.visible[frame, number]).sum() > 20
        # Nearer objects that hide none of its pixels may still blend into its rim.
        error = clean[solid].astype(float) - layer[solid][:, :3]
        assert np.abs(error).mean() <= max(one.plan.noise, 0.5)
        np.testing.assert_array_equal(one.without(frame), one.images[frame])


def test_occluders_are_those_that_hide_something():
    near, beside, far = ([disc(x, 32, 8)] * 2 for x in (24, 50, 30))
    one = by_hand(near, beside, far, ids=(5, 2, 9))
    assert one.occluders(9) == (5,)
    assert one.occluders(5) == one.occluders(2) == ()
    np.testing.assert_array_equal(one.without(0, (5,))[32, 26], (0, 0, 200))


def test_ids_last_while_an_object_is_hidden_and_while_it_is_outside():
    passing = [disc(x, 32, 6, BLUE) for x in (8, 20, 32, 44, 56)]
    leaving = [disc(x, 54, 5) for x in (10, 4, -20, 4, 10)]
    wall = [disc(32, 32, 14)] * 5
    one = by_hand(wall, passing, leaving, ids=(3, 1, 2))
    assert one.visible[:, 1].any(axis=(1, 2)).tolist() == [True, True, False, True, True]
    assert one.amodal[:, 1].any(axis=(1, 2)).all()
    assert one.covered[2, 1] == 1
    assert one.amodal[:, 2].any(axis=(1, 2)).tolist() == [True, True, False, True, True]
    assert one.layers[2][2] is None
    assert not one.layer(2, 2).any()
    # Hidden, it is still there in its layer, and in the frame without the wall.
    assert (one.layer(2, 1)[one.amodal[2, 1]][:, 3] >= 128).all()
    assert tuple(one.without(2, (3,))[32, 32]) == (220, 0, 0)
    assert one.ids.tolist() == [3, 1, 2]


def test_flow_of_a_known_motion():
    turn = [replace(disc(30, 30, 10), angle=angle, center=center) for angle, center in ((0, (30, 30)), (0.2, (33, 28)))]
    one = by_hand(turn)
    flow = one.flow(0)
    inside = one.visible[0, 0]
    assert (flow[~inside] == 0).all()
    rows, columns = np.nonzero(inside)
    x, y = columns + 0.5 - 30, rows + 0.5 - 30
    cos, sin = np.cos(0.2), np.sin(0.2)
    expected = np.stack([cos * x - sin * y - x + 3, sin * x + cos * y - y - 2], axis=1)
    np.testing.assert_allclose(flow[inside], expected, atol=1e-5)


def test_flow_of_the_background_follows_the_camera():
    plan = by_hand([disc(-50, 0, 5)] * 2).plan
    views = np.array([[[1.0, 0, 0], [0, 1, 0]], [[1.1, 0, 4], [0, 1.1, -2]]])
    flow = render_video(replace(plan, views=views)).flow(0)
    # Pixel (row 10, column 20) has its centre at (20.5, 10.5).
    np.testing.assert_allclose(flow[10, 20], [0.1 * 20.5 + 4, 0.1 * 10.5 - 2], atol=1e-5)


def test_flow_leads_into_the_same_object(steady):
    for one in steady:
        for frame in range(5):
            flow = one.flow(frame)
            for number, states in enumerate(one.plan.objects):
                seen = one.visible[frame, number]
                if not seen.any():
                    continue
                rows, columns = np.nonzero(seen)
                start = np.stack([columns, rows], axis=1) + 0.5
                end = start + flow[seen]
                # The same point of the object, by its coordinates on it.
                tracked = to_pixels(states[frame + 1], to_material(states[frame], start))
                assert np.abs(tracked - end).max() < 1e-3
                # Inside the outline of the next frame; a border pixel's centre lies up to half a pixel beyond it.
                contours = [c.astype(np.float32) for c in states[frame + 1].contours()]
                for point in end[:: max(1, len(end) // 40)].tolist():
                    assert cv2.pointPolygonTest(contours[0], point, True) > -0.5
                    assert all(cv2.pointPolygonTest(hole, point, True) < 0.5 for hole in contours[1:])


def _both_visible(one, frame, flow):
    """Pixels away from borders whose surface is visible in this frame and the next, and the sampling map."""
    rows, columns = np.mgrid[:128, :128].astype(np.float32)
    at = (columns + flow[..., 0], rows + flow[..., 1])
    result = np.zeros((128, 128), dtype=bool)
    groups = [*range(len(one.ids)), None]
    for number in groups:
        masks = [
            one.visible[t, number] if number is not None else ~one.amodal[t].any(axis=0) for t in (frame, frame + 1)
        ]
        here, there = (cv2.erode(mask.astype(np.uint8), np.ones((5, 5))) for mask in masks)
        result |= (here & cv2.remap(there, *at, cv2.INTER_NEAREST)) > 0
    inside = (at[0] > 2) & (at[1] > 2) & (at[0] < 125) & (at[1] < 125)
    return result & inside, at


def test_flow_carries_the_picture_along(steady):
    for one in steady:
        for frame in (0, 2, 4):
            flow = one.flow(frame)
            seen, at = _both_visible(one, frame, flow)
            warped = cv2.remap(one.images[frame + 1], *at, cv2.INTER_LINEAR).astype(float)
            still = np.abs(one.images[frame + 1].astype(float) - one.images[frame])[seen].mean()
            moved = np.abs(warped - one.images[frame])[seen].mean()
            assert seen.sum() > 1000
            assert moved < 2.0
            assert moved < max(0.5 * still, 0.5)


def test_flow_agrees_with_tracked_corners(steady):
    errors = []
    for one in steady:
        grey = [cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) for image in one.images]
        for frame in range(5):
            flow = one.flow(frame)
            seen, _ = _both_visible(one, frame, flow)
            slow = seen & (np.linalg.norm(flow, axis=2) < 4)
            corners = cv2.goodFeaturesToTrack(grey[frame], 40, 0.05, 5, mask=slow.astype(np.uint8) * 255)
            found, status, _ = cv2.calcOpticalFlowPyrLK(grey[frame], grey[frame + 1], corners, None, winSize=(7, 7))
            good = status[:, 0] > 0
            start = corners[good, 0]
            columns, rows = start.round().astype(int).T
            errors.append(np.linalg.norm(found[good, 0] - start - flow[rows, columns], axis=1))
    errors = np.concatenate(errors)
    assert len(errors) > 100
    assert np.median(errors) < 0.3


def test_backward_flow_undoes_forward_flow(video):
    for frame in (0, 4):
        forward, backward = video.forward_flow[frame], video.backward_flow[frame]
        np.testing.assert_array_equal(backward, video.flow(frame + 1, -1))
        seen, at = _both_visible(video, frame, forward)
        returned = cv2.remap(backward, *at, cv2.INTER_LINEAR)
        assert np.abs(returned + forward)[seen].max() < 0.05


def test_flow_without_occluders_is_complete(video):
    hidden = (video.amodal & ~video.visible).sum(axis=(2, 3))[:-1]
    frame, number = np.unravel_index(hidden.argmax(), hidden.shape)
    identity = int(video.ids[number])
    flow = video.flow(frame, 1, video.occluders(identity))
    rows, columns = np.nonzero(video.amodal[frame, number])
    start = np.stack([columns, rows], axis=1) + 0.5
    states = video.plan.objects[number]
    expected = to_pixels(states[frame + 1], to_material(states[frame], start)) - start
    np.testing.assert_allclose(flow[rows, columns], expected, atol=1e-4)
    alone = video.visible[frame, number]
    np.testing.assert_array_equal(flow[alone], video.flow(frame)[alone])


@pytest.mark.parametrize("wrong", [{"frames": 1}, {"size": 31}, {"size": (128, 20)}, {"seed": -1}, {"index": -1}])
def test_arguments_out_of_range(wrong):
    arguments = {"seed": 0, "index": 0, **wrong}
    with pytest.raises(DatasetError, match="frames 2 or more"):
        occvideo(arguments.pop("seed"), arguments.pop("index"), **arguments)


def test_unknown_id_and_frame_are_named(video):
    with pytest.raises(DatasetError, match=r"no object 77 .* ids are \[1, 2"):
        video.layer(0, 77)
    with pytest.raises(DatasetError, match="no object 77"):
        video.without(0, [77])
    for frame, step in ((9, 1), (0, -1), (10, -1)):
        with pytest.raises(DatasetError, match="no flow from frame"):
            video.flow(frame, step)
