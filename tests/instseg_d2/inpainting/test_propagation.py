import numpy as np
import pytest
import torch
from torch.nn import functional as F

from instseg_d2.inpainting.clips import away_from_hole
from instseg_d2.inpainting.errors import InpaintingError
from instseg_d2.inpainting.propagation import Propagator


def bilinear(image, x, y, weights=None):
    """(C, H, W) read at one point, each neighbour by its share and weight."""
    height, width = image.shape[1:]
    x0, y0 = int(np.floor(x)), int(np.floor(y))
    total, mass = 0.0, 0.0
    for i, j in ((x0, y0), (x0 + 1, y0), (x0, y0 + 1), (x0 + 1, y0 + 1)):
        part = (1 - abs(x - i)) * (1 - abs(y - j))
        i, j = min(i, width - 1), min(j, height - 1)
        part *= 1 if weights is None else float(weights[j, i])
        total, mass = total + part * image[:, j, i].astype(float), mass + part
    return total / mass


def direct_chain(sources, wanted, flow, reverse, limit, step):
    """Sources of one clip in one direction, pixel by pixel: {(t, y, x): (time, x, y, error)}."""
    length, height, width = wanted.shape
    found = {}
    for t in range(length)[::step]:
        before = t - step
        if not 0 <= before < length:
            continue
        for y, x in zip(*np.nonzero(wanted[t]), strict=True):
            pair = min(t, before)
            qx, qy = x + flow[pair, 0, y, x], y + flow[pair, 1, y, x]
            if not (0 <= qx <= width - 1 and 0 <= qy <= height - 1):
                continue
            error = np.hypot(*(np.array([qx - x, qy - y]) + bilinear(reverse[pair], qx, qy)))
            nx, ny = int(np.rint(qx)), int(np.rint(qy))
            if sources[before, ny, nx]:
                candidate = before, qx, qy, error
            elif (before, ny, nx) in found:
                time, sx, sy, worst = found[before, ny, nx]
                candidate = time, sx + qx - nx, sy + qy - ny, max(error, worst)
            else:
                continue
            rx, ry = int(np.rint(candidate[1])), int(np.rint(candidate[2]))
            lands = 0 <= rx < width and 0 <= ry < height and sources[candidate[0], ry, rx]
            if error < limit and lands:
                found[t, y, x] = (candidate[0], *np.clip(candidate[1:3], 0, (width - 1, height - 1)), candidate[3])
    return found


def direct_propagation(frames, visible, complete, sources, forward, backward, limit):
    """One clip (T, ...) as numpy; returns the filled frames and the pixels that were filled."""
    wanted = (complete > 0) & ~sources
    past = direct_chain(sources, wanted, backward, forward, limit, 1)
    future = direct_chain(sources, wanted, forward, backward, limit, -1)
    result, filled = frames.copy(), np.zeros(visible.shape, bool)
    for t, y, x in zip(*np.nonzero((complete > 0) & (visible == 0)), strict=True):
        colours, weights = [], []
        for chain in (past, future):
            if (t, y, x) in chain:
                time, sx, sy, error = chain[t, y, x]
                colours.append(bilinear(frames[time], sx, sy, sources[time]))
                weights.append(np.exp(-error / 0.1))
        if colours:
            result[t, :, y, x] = np.average(colours, axis=0, weights=weights)
            filled[t, y, x] = True
    return result, filled


def random_clip(seed, batch=2, length=6, height=11, width=14):
    """Smooth flow with a reverse that nearly fits, and masks with holes at random."""
    torch.manual_seed(seed)
    coarse = torch.randn(batch * (length - 1), 2, 3, 3) * 2
    forward = F.interpolate(coarse, (height, width), mode="bilinear", align_corners=True)
    backward = -forward + torch.randn_like(forward) * 0.4
    complete = (torch.rand(batch, length, 1, height, width) < 0.9).float()
    visible = complete * (F.avg_pool2d(torch.rand(batch * length, 1, height, width), 3, 1, 1) < 0.45).float().view_as(
        complete
    )
    frames = torch.rand(batch, length, 3, height, width) * 2 - 1
    flows = (flow.reshape(batch, length - 1, 2, height, width) for flow in (forward, backward))
    return frames, visible, complete, *flows


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("margin", [0, 1])
def test_agrees_with_a_direct_loop(seed, margin):
    frames, visible, complete, forward, backward = random_clip(seed)
    done = Propagator(max_cycle_error=1.5, reference_width=None, source_margin=margin)(
        frames, visible, complete, forward, backward
    )
    count = 0
    for item in range(len(frames)):
        sources = away_from_hole(visible, complete, margin)[item, :, 0].numpy() > 0
        clip = (part[item].numpy() for part in (frames, visible[:, :, 0], complete[:, :, 0]))
        result, filled = direct_propagation(*clip, sources, forward[item].numpy(), backward[item].numpy(), 1.5)
        np.testing.assert_allclose(done.frames[item].numpy(), result, atol=1e-4)
        np.testing.assert_array_equal(done.filled[item, :, 0].numpy() > 0, filled)
        count += filled.sum()
    assert count > 20


def moving_object(step, length=8, height=40, width=60):
    """A textured box that moves by whole pixels behind a bar; exact flow, and the clip without the bar."""
    rng = torch.Generator().manual_seed(0)
    texture = torch.rand(3, 14, 18, generator=rng) * 2 - 1
    clean = torch.full((length, 3, height, width), -0.5)
    complete = torch.zeros(length, 1, height, width)
    for time in range(length):
        x, y = 4 + step[0] * time, 4 + step[1] * time
        clean[time, :, y : y + 14, x : x + 18] = texture
        complete[time, :, y : y + 14, x : x + 18] = 1
    frames, visible = clean.clone(), complete.clone()
    frames[..., 22:30] = 0.9
    visible[..., 22:30] = 0
    flow = torch.tensor(step, dtype=torch.float32).reshape(1, 1, 2, 1, 1).expand(1, length - 1, 2, height, width)
    return frames[None], visible[None], complete[None], flow, -flow, clean[None]


@pytest.mark.parametrize("step", [(3, 1), (2, 0)])
@pytest.mark.parametrize("fusion", ["weighted", "nearest"])
def test_whole_pixel_motion_is_exact(step, fusion):
    *clip, clean = moving_object(step)
    done = Propagator(fusion=fusion, max_cycle_error=1)(*clip)
    filled = done.filled > 0
    hidden = (clip[2] - clip[1]).sum()
    assert done.filled.sum() > 0.8 * hidden
    error = ((done.frames - clean) * filled).abs()
    assert error.max() < 1e-6
    assert 10 * np.log10(4 / max(float((error**2).sum() / filled.sum() / 3), 1e-12)) > 40
    assert torch.equal(done.frames[(~filled).expand_as(done.frames)], clip[0][(~filled).expand_as(done.frames)])


def test_masks_and_counts_add_up():
    *clip, _ = moving_object((3, 1))
    frames, visible, complete = clip[:3]
    done = Propagator()(*clip)
    torch.testing.assert_close(done.visible, visible + done.filled)
    torch.testing.assert_close(done.hole, complete - done.visible)
    counts = done.counts()
    assert torch.equal(counts["hidden"], (complete - visible).sum(dim=(2, 3, 4)).long())
    assert torch.equal(counts["hidden"], counts["filled"] + counts["left"])
    # Before anything was seen of a part there is only the future, and at the end only the past.
    assert counts["from_past"][0, 0] == counts["from_future"][0, -1] == 0
    assert counts["from_past"].sum() > 0
    assert counts["from_future"].sum() > 0


@pytest.mark.parametrize("seed", range(3))
def test_sources_are_visible_object_pixels_alone(seed):
    _, visible, complete, forward, backward = random_clip(seed, length=8)
    # All that is no object, and the object's hidden part, is black; a trace of it would darken the filled pixels.
    frames = visible.expand(-1, -1, 3, -1, -1).clone()
    done = Propagator(reference_width=None, source_margin=0)(frames, visible, complete, forward, backward)
    assert done.filled.sum() > 50
    assert (done.frames[(done.filled > 0).expand_as(frames)] - 1).abs().max() < 1e-6


def constant_flows(error):
    """Flow whose cycle error is the same everywhere, in frames of 40 px."""
    frames = torch.rand(1, 3, 3, 12, 40)
    complete = torch.ones(1, 3, 1, 12, 40)
    visible = complete.clone()
    visible[:, 1, :, 4:8, 10:20] = 0
    forward = torch.zeros(1, 2, 2, 12, 40)
    backward = forward.clone()
    backward[:, :, 0] = error
    return frames, visible, complete, forward, backward


@pytest.mark.parametrize(("error", "fills"), [(4.9, True), (5.1, False), (-6.0, False)])
def test_flow_with_a_large_cycle_error_fills_nothing(error, fills):
    done = Propagator(reference_width=None)(*constant_flows(error))
    assert bool(done.filled.any()) == fills
    assert bool(done.hole.any()) != fills


def test_threshold_follows_the_size_of_the_frames():
    clip = constant_flows(2.0)
    assert Propagator(reference_width=80)(*clip).filled.any()  # 2.5 px at half of the reference
    assert not Propagator(reference_width=120)(*clip).filled.any()  # 1.7 px


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("fusion", ["weighted", "nearest"])
def test_reversed_video_gives_the_mirrored_result(seed, fusion):
    frames, visible, complete, forward, backward = random_clip(seed)
    propagator = Propagator(fusion=fusion, reference_width=None)
    done = propagator(frames, visible, complete, forward, backward)
    mirrored = propagator(*(part.flip(1) for part in (frames, visible, complete, backward, forward)))
    torch.testing.assert_close(mirrored.frames.flip(1), done.frames, atol=1e-5, rtol=0)
    assert torch.equal(mirrored.hole.flip(1), done.hole)
    assert torch.equal(mirrored.from_past.flip(1), done.from_future)
    assert done.filled.sum() > 20


def still_pixel(length, hidden, errors=None):
    """Frame t has the value t; one pixel is hidden in some frames, nothing moves; cycle errors per pair of frames."""
    frames = torch.arange(length).float().reshape(1, length, 1, 1, 1).expand(1, length, 3, 5, 9).contiguous()
    complete = torch.ones(1, length, 1, 5, 9)
    visible = complete.clone()
    visible[:, hidden, :, 2, 4] = 0
    forward = torch.zeros(1, length - 1, 2, 5, 9)
    backward = forward.clone()
    for pair, error in enumerate(errors or []):
        forward[:, pair, 0] = error
    return frames, visible, complete, forward, backward


def value(done, time):
    return done.frames[0, time, 0, 2, 4].item()


def test_both_directions_are_blended_by_their_cycle_errors():
    propagator = Propagator(reference_width=None)
    assert value(propagator(*still_pixel(3, [1])), 1) == pytest.approx(1.0)
    done = propagator(*still_pixel(3, [1], errors=[0.1, 0.0]))
    # The past, of value 0, has the weight exp(-1), the future, of value 2, has 1.
    assert value(done, 1) == pytest.approx(2 / (1 + np.exp(-1)))
    assert done.from_past[0, 1, 0, 2, 4] == done.from_future[0, 1, 0, 2, 4] == 1


def test_largest_error_on_the_way_counts():
    done = Propagator(reference_width=None, source_margin=0)(*still_pixel(4, [1, 2], errors=[0.3, 0.1, 0.2]))
    # For frame 2 the past has passed errors of 0.1 and 0.3, the future one of 0.2.
    past, future = np.exp(-3), np.exp(-2)
    assert value(done, 2) == pytest.approx(3 * future / (past + future), rel=1e-4)


def test_nearer_frame_wins_and_a_tie_is_blended():
    done = Propagator(fusion="nearest")(*still_pixel(5, [1, 2, 3]))
    assert [value(done, time) for time in (1, 2, 3)] == [0, 2, 4]


def test_age_is_bounded():
    done = Propagator(max_age=1)(*still_pixel(5, [1, 2, 3]))
    assert [done.hole[0, time].sum().item() for time in range(5)] == [0, 0, 1, 0, 0]


def test_offsets_below_a_pixel_add_up_and_are_read_once():
    length, width = 4, 24
    ramp = torch.arange(width).float()
    frames = ramp.expand(1, length, 3, 7, width).contiguous()
    complete = torch.ones(1, length, 1, 7, width)
    visible = complete.clone()
    visible[:, 1:, :, 3, 8:16] = 0
    forward = torch.zeros(1, length - 1, 2, 7, width)
    forward[:, :, 0] = -0.3
    done = Propagator(source_margin=0)(frames, visible, complete, forward, -forward)
    # Three steps of 0.3 to the right, along rows where the colour is the column.
    torch.testing.assert_close(done.frames[0, 3, 0, 3, 8:14], ramp[8:14] + 0.9)


def test_chains_pass_the_rim_of_sources():
    frames, visible, complete, forward, backward = still_pixel(3, [1])
    visible[:, 0, :, 2, 4:6] = 0  # in frame 0 the pixel is hidden too, and has a neighbour that is no source
    frames, visible, complete, forward, backward = (
        torch.cat([part[:, :1], part], dim=1) for part in (frames, visible, complete, forward, backward)
    )
    visible[:, 0] = 1
    done = Propagator()(frames, visible, complete, forward, backward)
    assert done.from_past[0, 2, 0, 2, 4] == 1


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("where", [(True, True), (True, False), (False, True)])
def test_flow_that_is_no_number_fills_nothing(bad, where):
    frames, visible, complete, *flows = still_pixel(3, [1])
    flows = [flow + bad if broken else flow for flow, broken in zip(flows, where, strict=True)]
    done = Propagator(reference_width=None)(frames, visible, complete, *flows)
    assert not done.filled.any()
    assert torch.equal(done.frames, frames)


def test_object_that_is_never_visible():
    frames, _, complete, forward, backward = still_pixel(3, [1])
    done = Propagator()(frames, torch.zeros_like(complete), complete, forward, backward)
    assert torch.equal(done.frames, frames)
    assert torch.equal(done.hole, complete)


def test_frame_without_a_complete_mask_ends_a_chain():
    frames, visible, complete, forward, backward = still_pixel(4, [1, 2])
    assert Propagator()(frames, visible, complete, forward, backward).from_past[0, 2].sum() == 1
    visible[:, 1] = complete[:, 1] = 0
    assert Propagator()(frames, visible, complete, forward, backward).from_past[0, 2].sum() == 0


def test_empty_masks_and_a_single_frame():
    frames = torch.rand(2, 1, 3, 8, 8)
    flow = torch.zeros(2, 0, 2, 8, 8)
    for complete in (torch.zeros(2, 1, 1, 8, 8), torch.ones(2, 1, 1, 8, 8)):
        done = Propagator()(frames, torch.zeros_like(complete), complete, flow, flow)
        assert torch.equal(done.frames, frames)
        assert torch.equal(done.hole, complete)


def test_visible_pixels_extend_the_complete_mask():
    frames, visible, complete, forward, backward = still_pixel(3, [1])
    complete[..., :2] = 0
    done = Propagator()(frames, visible, complete, forward, backward)
    assert torch.equal(done.visible, torch.ones_like(visible))
    assert not done.hole.any()


def test_half_precision_frames_under_autocast():
    *clip, clean = moving_object((3, 1))
    clip[0] = clip[0].half()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        done = Propagator()(*clip)
    assert done.frames.dtype == torch.float16
    assert ((done.frames - clean) * done.filled).abs().max() < 2e-3


def test_sizes_that_differ_are_named():
    frames, visible, complete, forward, backward = still_pixel(3, [1])
    with pytest.raises(InpaintingError, match="complete must be"):
        Propagator()(frames, visible, complete[..., :-1], forward, backward)
    with pytest.raises(InpaintingError, match="backward_flow must be"):
        Propagator()(frames, visible, complete, forward, backward[:, :1])


@pytest.mark.parametrize(
    "settings", [{"fusion": "mean"}, {"max_cycle_error": 0}, {"source_margin": -1}, {"max_age": 0}]
)
def test_settings_out_of_range(settings):
    with pytest.raises(ValueError, match="must be"):
        Propagator(**settings)
