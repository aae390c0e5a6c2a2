import pytest
import torch
from torch import nn

from instseg_d2.inpainting.discriminators import ClassDiscriminator, SpatioTemporalAttention, TPatchDiscriminator


def num_parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def tiny_classes(**options):
    torch.manual_seed(0)
    attention = SpatioTemporalAttention(channels=8, reduction=2)
    options = {"attention": attention, "channels": (4, 8, 8, 8, 8, 8), **options}
    return ClassDiscriminator(num_classes=5, **options)


def test_patch_scores_at_the_working_resolution():
    with torch.device("meta"):
        model = TPatchDiscriminator()
        assert round(num_parameters(model) / 1e6, 1) == 17.8
        assert model(torch.empty(2, 5, 3, 240, 432)).shape == (2, 256, 5, 4, 7)
        assert model(torch.empty(1, 5, 3, 64, 64)).shape == (1, 256, 5, 1, 1)
        maps, sizes = torch.empty(1, 3, 5, 240, 432), []
        for layer in model.layers:
            maps = layer(maps)
            if isinstance(layer, nn.Conv3d):
                sizes.append(tuple(maps.shape[-2:]))
    assert sizes == [(119, 215), (60, 108), (30, 54), (15, 27), (8, 14), (4, 7)]


def test_class_logits_at_the_working_resolution():
    seen = []
    with torch.device("meta"):
        attention = SpatioTemporalAttention()
        attention.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape))
        model = ClassDiscriminator(num_classes=65, attention=attention)
        clips, complete = torch.empty(2, 5, 3, 240, 432), torch.empty(2, 5, 1, 240, 432)
        assert model(clips, complete).shape == (2, 66)
    assert seen == [(2, 256, 5, 15, 27)]
    convolutions = [layer for layer in model.modules() if isinstance(layer, nn.Conv3d)]
    assert [layer.kernel_size for layer in convolutions if layer.in_channels > 2] == [(3, 5, 5)] * 6
    assert convolutions[0].in_channels == 4


def test_spectral_norm_is_where_it_belongs():
    patches = [layer for layer in TPatchDiscriminator(channels=(4,) * 6).layers if isinstance(layer, nn.Conv3d)]
    assert [hasattr(layer, "parametrizations") for layer in patches] == [True] * 5 + [False]
    classes = tiny_classes()
    convolutions = [layer for layer in classes.layers if isinstance(layer, nn.Conv3d)]
    assert all(hasattr(layer, "parametrizations") for layer in convolutions)
    assert not hasattr(classes.logits, "parametrizations")
    plain = TPatchDiscriminator(channels=(4,) * 6, use_spectral_norm=False)
    assert not any(hasattr(layer, "parametrizations") for layer in plain.layers)


@pytest.mark.parametrize("temporal", ["sigmoid", "softmax"])
def test_attention_against_the_formula(temporal):
    torch.manual_seed(0)
    model = SpatioTemporalAttention(channels=6, reduction=2, temporal=temporal, keep_aux=True)
    maps = torch.randn(2, 6, 4, 9, 11)
    out = model(maps)
    spatial, frames = model.aux["spatial"], model.aux["temporal"]
    assert spatial.shape == (2, 4, 9, 11)
    assert frames.shape == (2, 4)
    for weights in (spatial, frames):
        assert weights.min() > 0
    assert spatial.max() < 1
    if temporal == "sigmoid":
        assert frames.max() < 1
    else:
        torch.testing.assert_close(frames.sum(dim=1), torch.full((2,), 4.0))
    torch.testing.assert_close(out, maps + maps * spatial[:, None] * frames[:, None, :, None, None])
    # One frame by hand.
    pooled = torch.stack([maps[0, :, 1].mean(dim=0), maps[0, :, 1].amax(dim=0)])[None]
    by_hand = nn.functional.conv2d(pooled, model.places.weight[:, :, 0], model.places.bias, padding=3).sigmoid()
    torch.testing.assert_close(spatial[0, 1], by_hand[0, 0])


def test_attention_of_zero_weight_is_the_identity():
    model = SpatioTemporalAttention(channels=4, reduction=2)
    model.places.bias.data.fill_(-1e4)
    maps = torch.randn(1, 4, 3, 5, 5)
    assert model(maps).equal(maps)
    other = SpatioTemporalAttention(channels=4, reduction=2)
    other.frames[-1].bias.data.fill_(-1e4)
    assert other(maps).equal(maps)


def test_attention_learns():
    model = tiny_classes()
    clips, complete = torch.randn(2, 3, 3, 32, 48), torch.ones(2, 3, 1, 32, 48)
    model(clips, complete).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_attention_is_optional_and_can_be_moved():
    kinds = [type(layer) for layer in tiny_classes().layers]
    assert kinds.index(SpatioTemporalAttention) == 8
    assert SpatioTemporalAttention not in [type(layer) for layer in tiny_classes(attention=None).layers]
    moved = [type(layer) for layer in tiny_classes(attention_after=2).layers]
    assert moved.index(SpatioTemporalAttention) == 4


def test_mask_channel():
    model = tiny_classes().eval()
    clips, complete = torch.randn(1, 3, 3, 32, 32), torch.zeros(1, 3, 1, 32, 32)
    assert not model(clips, complete).equal(model(clips, 1 - complete))
    with pytest.raises(ValueError, match="takes the complete mask too"):
        model(clips)
    assert tiny_classes(takes_mask=False)(clips).shape == (1, 6)


def test_clips_of_a_batch_do_not_meet():
    clips, complete = torch.randn(3, 4, 3, 32, 48), torch.ones(3, 4, 1, 32, 48)
    order = torch.tensor([2, 0, 1])
    patches, classes = TPatchDiscriminator(channels=(4,) * 6).eval(), tiny_classes().eval()
    torch.testing.assert_close(patches(clips[order]), patches(clips)[order])
    torch.testing.assert_close(classes(clips[order], complete), classes(clips, complete)[order])


def test_time_is_an_axis_of_the_convolutions():
    """Six kernels of 3 frames see 6 frames to either side, no farther."""
    model = TPatchDiscriminator(channels=(4,) * 6).eval()
    clips = torch.randn(1, 16, 3, 32, 32)
    changed = clips.clone()
    changed[:, 8] += 1
    differ = (model(clips) - model(changed)).abs().amax(dim=(0, 1, 3, 4)) > 1e-6
    assert differ.nonzero().flatten().tolist() == list(range(2, 15))


def test_autocast_and_two_passes_before_one_backward():
    patches, classes = TPatchDiscriminator(channels=(4,) * 6), tiny_classes()
    clips, complete = torch.randn(2, 3, 3, 32, 48), torch.ones(2, 3, 1, 32, 48)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = patches(clips).mean() - patches(clips + 1).mean()
        logits = classes(clips, complete) - classes(clips + 1, complete)
    (scores.float() + logits.float().square().sum()).backward()
    for model in (patches, classes):
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_unknown_activation():
    with pytest.raises(ValueError, match="temporal='max': one of sigmoid, softmax"):
        SpatioTemporalAttention(temporal="max")
