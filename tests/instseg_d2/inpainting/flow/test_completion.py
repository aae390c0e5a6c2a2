import pytest
import torch

from instseg_d2.inpainting.errors import InpaintingError
from instseg_d2.inpainting.flow.completion import FlowCompletion, ResidualUNet
from instseg_d2.inpainting.flow.harmonic import harmonic_flow
from instseg_d2.inpainting.flow.losses import FlowLoss
from instseg_d2.inpainting.regions import region_mean


def tiny(seed=None, **options):
    network = ResidualUNet(widths=(8, 8, 16))
    if seed is not None:
        torch.manual_seed(seed)
        torch.nn.init.normal_(network.last.weight, std=0.1)
    return FlowCompletion(network=network, **options)


def hole_error(flow, truth, hole):
    return region_mean((flow - truth).norm(dim=2, keepdim=True), hole).item()


def test_size_of_the_network():
    with torch.device("meta"):
        network = ResidualUNet()
        assert network(torch.empty(2, 11, 240, 432)).shape == (2, 2, 240, 432)
        assert network.multiple == 16
    assert [level[0].out_channels for level in network.down] == [32, 64, 128, 256, 256]


def test_starts_as_the_observed_flow(clip):
    flows = tiny()(clip.frames, clip.visible, clip.complete, *clip.flows)
    assert flows[0].equal(clip.flows[0])
    assert flows[1].equal(clip.flows[1])


def test_starts_as_the_harmonic_fill_if_asked(clip):
    args = clip.frames, clip.visible, clip.complete, *clip.flows
    flows = tiny(start="harmonic")(*args)
    expected = harmonic_flow(*clip.flows, clip.visible, clip.complete)
    assert all(flow.equal(fill) for flow, fill in zip(flows, expected, strict=True))
    assert not flows[0].equal(clip.flows[0])


@pytest.mark.parametrize("start", ["corrupted", "harmonic"])
def test_nothing_changes_outside_of_the_complete_mask(clip, start):
    noise = torch.randn_like(clip.flows[0])
    observed = clip.flows[0] + noise, clip.flows[1] - noise
    flows = tiny(seed=0, start=start)(clip.frames, clip.visible, clip.complete, *observed)
    for flow, given, mask in zip(flows, observed, (clip.complete[:, :-1], clip.complete[:, 1:]), strict=True):
        changed = (flow != given).any(dim=2, keepdim=True)
        assert not changed[mask < 0.5].any()
        assert changed[mask > 0.5].float().mean() > 0.9


def test_both_directions_share_the_network(clip):
    """The backward flow of a clip is the forward flow of the reversed clip."""
    model = tiny(seed=0)
    there, back = model(clip.frames, clip.visible, clip.complete, *clip.flows)
    reversed_flows = clip.flows[1].flip(1), clip.flows[0].flip(1)
    again = model(clip.frames.flip(1), clip.visible.flip(1), clip.complete.flip(1), *reversed_flows)
    torch.testing.assert_close(again[0].flip(1), back)
    torch.testing.assert_close(again[1].flip(1), there)


def test_network_sees_eleven_channels_of_the_source_frame(clip):
    seen = []

    class Spy(torch.nn.Module):
        def forward(self, maps):
            seen.append(maps)
            return maps.new_ones(len(maps), 2, *maps.shape[2:])

    there, back = FlowCompletion(network=Spy())(clip.frames, clip.visible, clip.complete, *clip.flows)
    source, target, flow, visible, complete, contour = seen[1].split([3, 3, 2, 1, 1, 1], dim=1)
    assert source.equal(clip.frames[0, 1:])
    assert target.equal(clip.frames[0, :-1])
    torch.testing.assert_close(flow, clip.flows[1][0] / 20)
    assert visible.equal(clip.visible[0, 1:])
    assert complete.equal(clip.complete[0, 1:])
    assert 0 < contour.mean() < complete.mean()
    torch.testing.assert_close(back, clip.flows[1] + 20 * clip.complete[:, 1:])


def test_scale_by_the_size_of_the_frames(clip):
    class One(torch.nn.Module):
        def forward(self, maps):
            return maps.new_ones(len(maps), 2, *maps.shape[2:])

    there, _ = FlowCompletion(network=One(), flow_scale=None)(clip.frames, clip.visible, clip.complete, *clip.flows)
    torch.testing.assert_close(there, clip.flows[0] + 48 / 20 * clip.complete[:, :-1])


def test_overfits_a_clip_better_than_the_harmonic_fill(clip):
    """The object turns: the smooth fill of its flow is not the truth."""
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(48.0), indexing="ij")
    turn = torch.stack([0.02 * (y - 13) * (x - 15), 0.04 * (x - 15) ** 2])[None, None]
    clip.true_flows = turn * clip.complete[:, :-1], -turn * clip.complete[:, 1:]
    clip.flows = turn * clip.visible[:, :-1], -turn * clip.visible[:, 1:]
    hole = clip.hole[:, :-1]
    smooth, _ = harmonic_flow(*clip.flows, clip.visible, clip.complete)
    observed, harmonic = (hole_error(flow, clip.true_flows[0], hole) for flow in (clip.flows[0], smooth))
    assert harmonic < observed
    torch.manual_seed(0)
    model = tiny()
    criterion = FlowLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(200):
        flows = model(clip.frames, clip.visible, clip.complete, *clip.flows)
        error = hole_error(flows[0], clip.true_flows[0], hole)
        if error < 0.5 * harmonic:
            break
        losses = criterion(flows, clip.true_flows, clip.clean, clip.visible, clip.complete)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    assert error < 0.5 * harmonic


def test_gradients_and_autocast(clip):
    model = tiny(seed=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        flows = model(clip.frames, clip.visible, clip.complete, *clip.flows)
        losses = FlowLoss()(flows, clip.true_flows, clip.clean, clip.visible, clip.complete)
    assert flows[0].dtype == torch.float32
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    sum(losses.values()).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


def test_first_step_moves_the_last_layer_alone(clip):
    model = tiny()
    flows = model(clip.frames, clip.visible, clip.complete, *clip.flows)
    (flows[0] - clip.true_flows[0]).abs().sum().backward()
    assert model.network.last.weight.grad.abs().sum() > 0
    assert model.network.down[0][0].weight.grad.abs().sum() == 0


def test_one_frame_has_no_flow(clip):
    empty = torch.zeros(1, 0, 2, 32, 48)
    flows = tiny()(clip.frames[:, :1], clip.visible[:, :1], clip.complete[:, :1], empty, empty)
    assert flows[0].shape == flows[1].shape == (1, 0, 2, 32, 48)


def test_bad_input(clip):
    with pytest.raises(InpaintingError, match="backward_flow must be"):
        tiny()(clip.frames, clip.visible, clip.complete, clip.flows[0], clip.flows[1][:, :1])
    with pytest.raises(ValueError, match="start='zero': one of corrupted, harmonic"):
        FlowCompletion(network=ResidualUNet(widths=(8,)), start="zero")
