import pytest
import torch
from scipy.ndimage import map_coordinates

from instseg_d2.inpainting.flow.warp import compose, cycle_error, is_inside, pixel_grid, sample, sample_at, warp


def test_whole_pixel_shift_is_exact():
    images = torch.rand(2, 3, 9, 11)
    flow = torch.tensor([2.0, -1.0]).reshape(1, 2, 1, 1).expand(2, 2, 9, 11)
    # At p the image of p + flow: two columns to the right, one row up.
    torch.testing.assert_close(warp(images, flow)[:, :, 1:, :-2], images[:, :, :-1, 2:], atol=1e-5, rtol=0)


def test_sampling_agrees_with_scipy():
    torch.manual_seed(0)
    images = torch.rand(1, 2, 7, 9)
    points = torch.rand(1, 2, 5, 6) * torch.tensor([12.0, 10.0]).reshape(1, 2, 1, 1) - 2
    rows, columns = points[0, 1].numpy(), points[0, 0].numpy()
    for channel in range(2):
        expected = map_coordinates(images[0, channel].numpy(), [rows, columns], order=1, mode="nearest")
        torch.testing.assert_close(sample(images, points)[0, channel], torch.from_numpy(expected))


def test_list_of_points_agrees_with_the_grid():
    torch.manual_seed(0)
    maps = torch.rand(3, 2, 7, 9)
    points = torch.rand(3, 2, 4, 4) * torch.tensor([8.0, 6.0]).reshape(1, 2, 1, 1)
    points[0, :, 0, 0] = torch.tensor([8.0, 6.0])
    item = torch.arange(3).repeat_interleave(16)
    listed = points.permute(0, 2, 3, 1).reshape(-1, 2)
    expected = sample(maps, points).permute(0, 2, 3, 1).reshape(-1, 2)
    torch.testing.assert_close(sample_at(maps, item, listed), expected)


def test_weights_leave_neighbours_out():
    maps = torch.tensor([[10.0, 20.0], [30.0, 1000.0]]).reshape(1, 1, 2, 2)
    weights = torch.tensor([[1.0, 1.0], [1.0, 0.0]]).reshape(1, 1, 2, 2)
    # Shares of the four: 0.375, 0.125, 0.375, 0.125.
    found = sample_at(maps, torch.zeros(1, dtype=torch.long), torch.tensor([[0.25, 0.5]]), weights)
    assert found.item() == pytest.approx((0.375 * 10 + 0.125 * 20 + 0.375 * 30) / 0.875)


def test_gradients_reach_images_and_flow():
    images = torch.rand(1, 1, 5, 5, dtype=torch.float64, requires_grad=True)
    flow = (torch.rand(1, 2, 5, 5) * 0.8 + 0.1).requires_grad_()
    warp(images, flow).sum().backward()
    assert images.grad.abs().sum() > 0
    assert flow.grad.abs().sum() > 0


def test_flow_stays_fp32_under_autocast():
    flow = torch.full((1, 2, 8, 300), 0.123)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = compose(flow, flow)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, 2 * flow)


def test_composition_follows_both_flows():
    grid = pixel_grid(16, 20)[None]
    # x -> 1.1 x + 1, then x -> 0.9 x - 2: together 0.99 x - 1.1.
    first, second = 0.1 * grid + 1, -0.1 * grid - 2
    found, expected = compose(first, second), -0.01 * grid - 1.1
    inside = is_inside(grid + first, 16, 20)
    torch.testing.assert_close(found[inside.expand_as(found)], expected[inside.expand_as(found)], atol=1e-4, rtol=0)


def test_cycle_error_of_known_flows():
    flow = torch.tensor([3.0, 0.0]).reshape(1, 2, 1, 1).expand(1, 2, 6, 10)
    back = torch.tensor([0.0, 4.0]).reshape(1, 2, 1, 1).expand(1, 2, 6, 10)
    error = cycle_error(flow, back)
    torch.testing.assert_close(error[..., :7], torch.full((1, 1, 6, 7), 5.0))
    assert error[..., 7:].isinf().all()
    assert cycle_error(flow, -flow)[..., :7].max() == 0


def test_one_pixel_wide_image():
    images = torch.rand(1, 1, 4, 1)
    torch.testing.assert_close(warp(images, torch.zeros(1, 2, 4, 1)), images)
