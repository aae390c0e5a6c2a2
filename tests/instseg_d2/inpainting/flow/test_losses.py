import cv2
import numpy as np
import pytest
import torch

from instseg_d2.inpainting.flow.losses import FlowLoss, difference_mean, differences, laplacian_pyramid

TERMS = ("hole", "valid", "gradient", "laplacian", "warp", "smoothness")


def only(name, **options):
    weights = {f"{term}_weight": float(term == name) for term in TERMS}
    return FlowLoss(**{**weights, **options})


def still(batch=1, length=2, height=16, width=16, value=0.0):
    flow = torch.full((batch, length - 1, 2, height, width), value)
    return flow, flow.clone()


def square(length=2, size=16, start=2, stop=14):
    mask = torch.zeros(1, length, 1, size, size)
    mask[..., start:stop, start:stop] = 1
    return mask


def half_hidden():
    complete = square()
    visible = complete.clone()
    visible[..., 8:] = 0
    return visible, complete


def value(loss, flows, true_flows, frames=None, masks=None):
    visible, complete = half_hidden() if masks is None else masks
    frames = torch.zeros(1, 2, 3, 16, 16) if frames is None else frames
    (result,) = loss(flows, true_flows, frames, visible, complete).values()
    return result.item()


def test_regression_in_hole_and_visible_part():
    """The flow is wrong by 3 px in the hole and by 1 px in the visible part; both directions add up."""
    visible, complete = half_hidden()
    wrong = 3 * (complete * (1 - visible))[:, :1] + visible[:, :1] + 100 * (1 - complete[:, :1])
    flows = wrong.expand(-1, -1, 2, -1, -1), -wrong.expand(-1, -1, 2, -1, -1)
    assert value(only("hole"), flows, still()) == pytest.approx(2 * 3)
    assert value(only("valid"), flows, still()) == pytest.approx(2 * 1)
    assert value(only("hole", hole_weight=0.5), flows, still()) == pytest.approx(3)


def test_gradient_is_blind_to_constant_errors_and_to_the_outside():
    _, complete = half_hidden()
    outside = 100 * (1 - complete[:, :1]).expand(-1, -1, 2, -1, -1)
    assert value(only("gradient"), (still()[0] + 5 + outside,) * 2, still()) == 0
    ramp = 0.5 * torch.arange(16.0).expand(1, 1, 2, 16, 16)
    assert value(only("gradient"), (ramp + outside,) * 2, still()) == pytest.approx(2 * 0.5)
    assert value(only("gradient"), (ramp, ramp), (ramp, ramp)) == 0


def test_smoothness_lets_flow_break_at_the_contour():
    _, complete = half_hidden()
    inner = square(start=3, stop=13)[:, :1].expand(-1, -1, 2, -1, -1)
    assert value(only("smoothness"), (7 * inner,) * 2, still()) == 0
    ramp = 0.5 * torch.arange(16.0).expand(1, 1, 2, 16, 16)
    # Smoothness asks for no truth: here it is the same ramp.
    assert value(only("smoothness"), (ramp,) * 2, (ramp,) * 2) == pytest.approx(2 * 0.5)


def test_image_edges_damp_smoothness_if_asked():
    step = torch.zeros(1, 1, 2, 16, 16)
    step[..., 8:] = 1.0
    frames = torch.full((1, 2, 3, 16, 16), -1.0)
    frames[..., 8:] = 1.0
    plain = value(only("smoothness"), (step, step), still(), frames)
    damped = value(only("smoothness", edge_aware=True), (step, step), still(), frames)
    assert damped == pytest.approx(plain * np.exp(-1), rel=1e-5)


def test_warp_compares_clean_frames():
    frames = torch.rand(1, 1, 3, 16, 20) * 2 - 1
    frames = torch.cat([frames, frames.roll(3, -1)], dim=1)
    mask = torch.zeros(1, 2, 1, 16, 20)
    mask[:, 0, :, 4:12, 4:12] = mask[:, 1, :, 4:12, 7:15] = 1
    flow = torch.zeros(1, 1, 2, 16, 20)
    flow[:, :, 0] = 3
    exact = flow, -flow
    assert value(only("warp"), exact, exact, frames, (mask, mask)) == pytest.approx(0, abs=1e-5)
    expected = sum(
        (frames[:, a, :, 4:12, x] - frames[:, b, :, 4:12, x]).abs().mean().item() / 2
        for a, b, x in ((0, 1, slice(4, 12)), (1, 0, slice(7, 15)))
    )
    assert value(only("warp"), (flow * 0, flow * 0), exact, frames, (mask, mask)) == pytest.approx(expected, rel=1e-4)
    # Where the true flow contradicts itself by more than 5 px nothing is compared.
    assert value(only("warp"), (flow * 0, flow * 0), (2 * flow, flow * 0), frames, (mask, mask)) == 0


def test_warp_has_a_gradient(clip):
    flow = clip.true_flows[0].clone().requires_grad_()
    loss = only("warp")((flow, clip.true_flows[1]), clip.true_flows, clip.clean, clip.visible, clip.complete)
    loss["loss_flow_warp"].backward()
    assert flow.grad.abs().sum() > 0
    assert flow.grad[(clip.complete[:, :-1] < 0.5).expand_as(flow)].eq(0).all()


def test_pyramid_against_opencv():
    image = np.random.default_rng(0).random((16, 24)).astype(np.float32)
    first, second, rest = laplacian_pyramid(torch.from_numpy(image)[None, None], levels=3)
    line = np.array([1, 4, 6, 4, 1], np.float32) / 16
    blurred = cv2.sepFilter2D(image, -1, line, line, borderType=cv2.BORDER_REPLICATE)
    np.testing.assert_allclose(first[0, 0].numpy(), image - blurred, atol=1e-6)
    half = blurred[::2, ::2]
    again = cv2.sepFilter2D(half, -1, line, line, borderType=cv2.BORDER_REPLICATE)
    np.testing.assert_allclose(second[0, 0].numpy(), half - again, atol=1e-6)
    np.testing.assert_allclose(rest[0, 0].numpy(), again[::2, ::2], atol=1e-6)


def test_laplacian_of_a_constant_error():
    """A constant has no detail: of five levels only the last is not zero."""
    masks = torch.ones(1, 2, 1, 16, 16), torch.ones(1, 2, 1, 16, 16)
    flows = still(value=2.0)
    assert value(only("laplacian"), flows, still(), masks=masks) == pytest.approx(2 * 2.0 / 5)
    assert value(only("laplacian", laplacian_levels=1), flows, still(), masks=masks) == pytest.approx(2 * 2.0)


def test_laplacian_does_not_look_outside():
    _, complete = half_hidden()
    outside = 50 * (1 - complete[:, :1]).expand(-1, -1, 2, -1, -1)
    assert value(only("laplacian"), (outside, outside), still()) == 0


def test_terms_of_weight_zero_are_left_out(clip):
    args = clip.flows, clip.true_flows, clip.clean, clip.visible, clip.complete
    assert set(FlowLoss()(*args)) == {f"loss_flow_{term}" for term in TERMS}
    assert set(only("warp")(*args)) == {"loss_flow_warp"}


def test_truth_costs_nothing_but_smoothness(clip):
    losses = FlowLoss()(clip.true_flows, clip.true_flows, clip.clean, clip.visible, clip.complete)
    assert all(loss.item() == pytest.approx(0, abs=1e-5) for loss in losses.values())


@pytest.mark.parametrize("length", [1, 2])
def test_nothing_of_the_object(length):
    flows = tuple(torch.zeros(1, length - 1, 2, 16, 16, requires_grad=True) for _ in range(2))
    empty = torch.zeros(1, length, 1, 16, 16)
    losses = FlowLoss()(flows, still(length=length), torch.zeros(1, length, 3, 16, 16), empty, empty)
    assert all(loss == 0 for loss in losses.values())
    sum(losses.values()).backward()
    assert flows[0].grad is not None


def test_differences():
    maps = torch.tensor([[1.0, 4.0], [2.0, 9.0]])[None, None]
    along_x, along_y = differences(maps)
    assert along_x.flatten().tolist() == [3, 7]
    assert along_y.flatten().tolist() == [1, 5]
    assert difference_mean(maps, torch.ones(1, 1, 2, 2)).item() == 5 + 3
    assert difference_mean(maps, torch.tensor([[1.0, 1.0], [0.0, 1.0]])[None, None]).item() == 3 + 5
