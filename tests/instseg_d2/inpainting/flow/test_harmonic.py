import numpy as np
import pytest
import torch
from scipy.ndimage import label

from instseg_d2.inpainting.flow.harmonic import HarmonicCompletion, harmonic_fill, harmonic_flow


def direct_fill(values, known, region):
    """Laplace's equation as a dense system, pixel by pixel."""
    unknown = list(zip(*np.nonzero(region & ~known), strict=True))
    number = {pixel: row for row, pixel in enumerate(unknown)}
    matrix = np.zeros((len(unknown), len(unknown)))
    right = np.zeros((len(unknown), values.shape[2]))
    for (y, x), row in number.items():
        for beside in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if not (0 <= beside[0] < region.shape[0] and 0 <= beside[1] < region.shape[1] and region[beside]):
                continue
            matrix[row, row] += 1
            if beside in number:
                matrix[row, number[beside]] -= 1
            else:
                right[row] += values[beside]
    filled = values.astype(float).copy()
    filled[tuple(np.transpose(unknown))] = np.linalg.solve(matrix, right)
    return filled


def linear_field(height, width):
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    return np.stack([0.3 * columns - 0.2 * rows + 1, -0.1 * columns + 0.5 * rows - 2], axis=2)


def test_linear_field_is_reproduced():
    truth = linear_field(30, 40)
    region = np.zeros((30, 40), bool)
    region[2:28, 3:37] = True
    known = region.copy()
    known[8:20, 10:30] = False
    known[15:24, 25:33] = False
    observed = np.where(known[..., None], truth, 99)
    np.testing.assert_allclose(harmonic_fill(observed, known, region)[region], truth[region], atol=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_a_dense_system(seed):
    rng = np.random.default_rng(seed)
    parts, _ = label(rng.random((12, 14)) < 0.75)
    region = parts == np.bincount(parts[parts > 0]).argmax()  # the largest: a part without known pixels is singular
    known = region & (rng.random((12, 14)) < 0.2)
    values = rng.normal(size=(12, 14, 4)).astype(np.float32)
    expected = direct_fill(values, known, region)
    np.testing.assert_allclose(harmonic_fill(values, known, region), expected, atol=1e-4)


def test_nothing_crosses_the_contour():
    region = np.zeros((10, 12), bool)
    region[2:8, 2:10] = True
    known = region.copy()
    known[4:6, 5:9] = False
    known[:, 9] = False  # the hole reaches the contour
    values = np.random.default_rng(0).normal(size=(10, 12, 2)).astype(np.float32)
    other = values.copy()
    other[~known] = 1e6
    np.testing.assert_array_equal(
        harmonic_fill(values, known, region)[region], harmonic_fill(other, known, region)[region]
    )
    filled = harmonic_fill(values, known, region)
    for channel in range(2):
        inside = values[..., channel][known]
        assert inside.min() <= filled[..., channel][region].min()
        assert filled[..., channel][region].max() <= inside.max()


def test_hole_seen_from_one_side_goes_on_as_it_starts():
    region = np.ones((5, 9), bool)
    known = region.copy()
    known[:, 3:] = False
    values = np.zeros((5, 9, 1), np.float32)
    values[:, :3] = 7
    np.testing.assert_allclose(harmonic_fill(values, known, region), 7, rtol=1e-6)


def test_part_that_nothing_reaches_takes_the_mean():
    region = np.zeros((6, 9), bool)
    region[1:5, 1:4] = region[1:5, 6:8] = True
    known = np.zeros_like(region)
    known[1, 1:4] = True
    values = np.zeros((6, 9, 1), np.float32)
    values[1, 1:4, 0] = [1, 2, 6]
    np.testing.assert_allclose(harmonic_fill(values, known, region)[1:5, 6:8], 3, rtol=1e-6)


@pytest.mark.parametrize("empty", ["known", "region", "unknown"])
def test_nothing_to_do(empty):
    values = np.random.default_rng(0).normal(size=(4, 5, 2)).astype(np.float32)
    known, region = np.zeros((4, 5), bool), np.ones((4, 5), bool)
    if empty == "region":
        known, region = region, known
    if empty == "unknown":
        known = region
    np.testing.assert_array_equal(harmonic_fill(values, known, region), values)


def clip(frames=4, height=24, width=30):
    """A box whose middle is hidden in every frame; the object moves right, the occluder down."""
    complete = torch.zeros(1, frames, 1, height, width)
    complete[..., 4:20, 4:26] = 1
    visible = complete.clone()
    visible[..., 13:18] = 0
    forward = torch.zeros(1, frames - 1, 2, height, width)
    forward[:, :, 0] = 2 * complete[:, :-1, 0]
    forward[:, :, 1, :, 11:20] = 5  # 2 px beyond the hole, as patches of an estimator reach
    forward[:, :, 0, :, 11:20] = 0
    return visible, complete, forward, -forward


def test_hidden_part_moves_as_the_visible_part():
    visible, complete, forward, backward = clip()
    completed = harmonic_flow(forward, backward, visible, complete)
    inside = complete[0, 0, 0] > 0
    for flow, observed, sign in zip(completed, (forward, backward), (1, -1), strict=True):
        torch.testing.assert_close(flow[:, :, 0][..., inside], torch.full_like(flow[:, :, 0][..., inside], 2.0 * sign))
        assert flow[:, :, 1][..., inside].abs().max() < 1e-5
        assert torch.equal(flow[..., ~inside], observed[..., ~inside])


def test_margin_zero_lets_the_occluders_motion_in():
    visible, complete, forward, backward = clip()
    flow = harmonic_flow(forward, backward, visible, complete, hole_margin=0)[0]
    assert flow[0, :, 1, 12, 15].min() > 4


def test_each_flow_takes_the_masks_of_the_frame_where_it_starts():
    visible, complete, forward, backward = clip(frames=2)
    visible[:, 1] = complete[:, 1]  # in the second frame nothing is hidden
    completed = harmonic_flow(forward, backward, visible, complete, max_cycle_error=None)
    assert not torch.equal(completed[0], forward)
    assert torch.equal(completed[1], backward)


def test_object_that_moves_is_completed_where_it_is():
    complete = torch.zeros(1, 3, 1, 12, 40)
    for time in range(3):
        complete[:, time, :, 3:9, 2 + 8 * time : 16 + 8 * time] = 1
    visible = complete * (torch.rand(1, 1, 1, 1, 40, generator=torch.Generator().manual_seed(0)) < 0.5)
    forward = torch.where(visible[:, :2] > 0, 8.0, -1.0).repeat(1, 1, 2, 1, 1)
    backward = torch.where(visible[:, 1:] > 0, -8.0, -1.0).repeat(1, 1, 2, 1, 1)
    flow, back = harmonic_flow(forward, backward, visible, complete, hole_margin=0, max_cycle_error=None)
    torch.testing.assert_close(flow, torch.where(complete[:, :2] > 0, 8.0, -1.0).expand_as(flow))
    torch.testing.assert_close(back, torch.where(complete[:, 1:] > 0, -8.0, -1.0).expand_as(back))


def test_wrong_flow_of_visible_pixels_is_not_believed():
    visible, complete, forward, backward = clip()
    forward[:, :, 1, 6:18, 6:9] = 9  # the backward flow does not confirm it
    inside = complete[0, 0, 0] > 0
    flow = harmonic_flow(forward, backward, visible, complete)[0]
    torch.testing.assert_close(flow[:, :, 1][..., inside], torch.zeros_like(flow[:, :, 1][..., inside]))
    assert harmonic_flow(forward, backward, visible, complete, max_cycle_error=None)[0][:, :, 1, 10, 15].min() > 0.1


def test_flow_that_is_nowhere_confirmed_is_better_than_none():
    visible, complete, forward, _ = clip()
    backward = torch.full_like(forward, 7.0)
    flow = harmonic_flow(forward, backward, visible, complete)[0]
    torch.testing.assert_close(flow[0, :, 0, 12, 15], torch.full((3,), 2.0))


def test_frame_without_the_object_takes_the_motion_around_it():
    complete = torch.ones(1, 4, 1, 6, 8)
    visible = torch.ones(1, 4, 1, 6, 8)
    visible[:, 1] = 0
    forward = torch.zeros(1, 3, 2, 6, 8)
    forward[:, 0, 0], forward[:, 1], forward[:, 2, 0] = 1, 50, 3
    # Entry 0 of the backward flow starts in frame 1, and no flow leads back from frame 0.
    backward = torch.zeros(1, 3, 2, 6, 8)
    backward[:, 0], backward[:, 1, 1], backward[:, 2, 1] = 50, 5, 6
    flow, back = harmonic_flow(forward, backward, visible, complete, max_cycle_error=None)
    assert flow[0, :, :, 3, 4].tolist() == [[1, 0], [2, 0], [3, 0]]
    assert back[0, :, :, 3, 4].tolist() == [[0, 5], [0, 5], [0, 6]]


def test_object_that_is_never_seen_keeps_the_observed_flow():
    flow = torch.randn(1, 2, 2, 6, 8)
    completed = harmonic_flow(flow, -flow, torch.zeros(1, 3, 1, 6, 8), torch.ones(1, 3, 1, 6, 8))
    assert torch.equal(completed[0], flow)
    assert torch.equal(completed[1], -flow)


def test_one_frame_has_no_flow():
    frames, mask, flow = torch.zeros(1, 1, 3, 8, 8), torch.ones(1, 1, 1, 8, 8), torch.zeros(1, 0, 2, 8, 8)
    forward, backward = HarmonicCompletion()(frames, mask, mask, flow, flow)
    assert forward.shape == backward.shape == (1, 0, 2, 8, 8)


def test_class_is_the_function():
    visible, complete, forward, backward = clip()
    found = HarmonicCompletion(hole_margin=2, max_cycle_error=None)(
        torch.zeros(1, 4, 3, 24, 30), visible, complete, forward, backward
    )
    expected = harmonic_flow(forward, backward, visible, complete, hole_margin=2, max_cycle_error=None)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
