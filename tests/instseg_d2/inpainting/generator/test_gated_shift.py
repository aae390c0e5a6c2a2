import pytest
import torch
from torch.nn import functional as F

from instseg_d2.inpainting.generator.gated_shift import GATES, OcclusionAwareBlock
from instseg_d2.inpainting.generator.shift import TemporalShift


def block(before=8, after=8, **options):
    torch.manual_seed(0)
    return OcclusionAwareBlock(in_channels=before, out_channels=after, mask_channels=4, **options)


def inputs(channels=8, size=(8, 12), batch=2, length=3):
    torch.manual_seed(1)
    maps = torch.randn(batch, length, channels, *size)
    masks = (torch.rand(batch, length, 2, 16, 24) > 0.5).float()
    return maps, masks


def test_equations():
    model = block(shift=TemporalShift())
    maps, masks = inputs()
    small = F.adaptive_avg_pool2d(masks.flatten(0, 1), (8, 12))
    gate = (model.gate(maps.flatten(0, 1)) + model.mask_branch(small)).sigmoid()
    features = model.feature(model.shift(maps).flatten(0, 1)).relu()
    out, opening = model(maps, masks)
    torch.testing.assert_close(opening.flatten(0, 1), gate)
    torch.testing.assert_close(out.flatten(0, 1), gate * features + maps.flatten(0, 1))
    without, _ = block(shift=TemporalShift(), residual=False)(maps, masks)
    torch.testing.assert_close(without.flatten(0, 1), gate * features)


def test_figure_adds_masks_before_the_gate_convolution():
    model = block(gate="occlusion_input", residual=False)
    maps, masks = inputs()
    small = F.adaptive_avg_pool2d(masks.flatten(0, 1), (8, 12))
    expected = model.gate(maps.flatten(0, 1) + model.mask_branch(small)).sigmoid()
    torch.testing.assert_close(model(maps, masks)[1].flatten(0, 1), expected)


@pytest.mark.parametrize("gate", GATES)
def test_gate_reacts_to_masks(gate):
    model = block(gate=gate)
    maps, masks = inputs()
    same = model(maps, masks)[0].equal(model(maps, torch.zeros_like(masks))[0])
    assert same == (gate in ("plain", "none"))
    assert (model(maps, masks)[1] is None) == (gate == "none")


@pytest.mark.parametrize("gate", ["occlusion", "occlusion_input"])
def test_gradient_reaches_f(gate):
    model = block(gate=gate)
    maps, masks = inputs()
    model(maps, masks.requires_grad_())[0].square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.mask_branch.parameters())
    assert masks.grad.abs().sum() > 0


def test_shut_gate_leaves_the_identity():
    model = block()
    model.gate.bias.data.fill_(-1e4)
    maps, masks = inputs()
    assert model(maps, masks)[0].equal(maps)


def test_gate_sees_its_own_frame_alone():
    model = block(shift=TemporalShift())
    maps, masks = inputs()
    changed = maps.clone()
    changed[:, 1] += 1
    before, after = model(maps, masks), model(changed, masks)
    assert after[1][:, [0, 2]].equal(before[1][:, [0, 2]])
    assert not after[0][:, [0, 2]].equal(before[0][:, [0, 2]])


@pytest.mark.parametrize(
    ("layout", "size"),
    [
        ({"kernel_size": 5}, (8, 12)),
        ({"kernel_size": 4, "stride": 2}, (4, 6)),
        ({"dilation": 16}, (8, 12)),
        ({"scale": 2}, (16, 24)),
    ],
)
def test_sizes(layout, size):
    model = block(after=6, shift=TemporalShift(), **layout)
    maps, masks = inputs()
    out, opening = model(maps, masks)
    assert out.shape == opening.shape == (2, 3, 6, *size)
    assert not model.residual


def test_spectral_norm():
    model = block(use_spectral_norm=True, residual=False).train()
    maps, masks = inputs()
    for _ in range(30):
        model(maps, masks)
    for layer in (model.feature, model.gate):
        largest = torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2)
        torch.testing.assert_close(largest, torch.tensor(1.0), rtol=2e-2, atol=0)


def test_unknown_gate():
    with pytest.raises(ValueError, match="gate='soft': one of occlusion"):
        block(gate="soft")
