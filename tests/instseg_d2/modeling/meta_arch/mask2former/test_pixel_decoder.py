import pytest
import torch

from instseg_d2.modeling.meta_arch.mask2former.pixel_decoder import DeformablePixelDecoder

CHANNELS = {"res2": 8, "res3": 12, "res4": 16, "res5": 20}


def decoder(**settings):
    torch.manual_seed(0)
    options = {"channels": 32, "mask_channels": 16, "num_layers": 2, "num_heads": 4, "feedforward": 16, **settings}
    return DeformablePixelDecoder(in_features=list(CHANNELS), in_channels=list(CHANNELS.values()), **options)


def levels(height=64, width=96, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(2, channels, height // stride, width // stride, generator=rng)
        for (name, channels), stride in zip(CHANNELS.items(), (4, 8, 16, 32), strict=True)
    }


def test_sizes():
    masks, others = decoder()(levels())
    assert masks.shape == (2, 16, 16, 24)
    assert [tuple(level.shape) for level in others] == [(2, 32, 2, 3), (2, 32, 4, 6), (2, 32, 8, 12)]


def test_every_parameter_learns():
    model = decoder(channels=64)  # of norms with one channel a group, the bias before them has no effect
    for layer in model.layers:  # before training offsets do not depend on what is there
        torch.nn.init.normal_(layer.attention.offsets.weight, std=0.1)
    masks, others = model(levels())
    (masks.square().sum() + sum((i + 1) * level.sin().sum() for i, level in enumerate(others))).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_levels_attend_to_each_other_but_the_finest_gives_to_the_masks_alone():
    model = decoder().eval()
    plain, changed = levels(), levels()
    changed["res2"] = changed["res2"] + 1
    before, after = model(plain), model(changed)
    assert all(torch.equal(a, b) for a, b in zip(before.levels, after.levels, strict=True))
    assert not torch.allclose(before.masks, after.masks)
    changed = levels()
    changed["res5"] = changed["res5"].flip(0)
    assert not torch.allclose(model(changed).levels[2], before.levels[2])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_computes_in_full_precision_under_autocast(dtype):
    model = decoder().eval()
    halves = {name: level.to(dtype) for name, level in levels().items()}
    with torch.autocast("cpu", dtype=dtype):
        masks, others = model(halves)
    assert {masks.dtype, *(level.dtype for level in others)} == {torch.float32}
    expected = model({name: level.float() for name, level in halves.items()})
    assert torch.equal(masks, expected.masks)


@pytest.mark.parametrize(("names", "channels"), [(["res2"], [8]), (["res2", "res3"], [8])])
def test_mistakes(names, channels):
    with pytest.raises(ValueError, match="in_features"):
        DeformablePixelDecoder(in_features=names, in_channels=channels, channels=32)
