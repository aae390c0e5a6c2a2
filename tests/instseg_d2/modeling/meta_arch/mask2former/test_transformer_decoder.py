import pytest
import torch

from instseg_d2.modeling.meta_arch.mask2former.pixel_decoder import PixelFeatures
from instseg_d2.modeling.meta_arch.mask2former.transformer_decoder import MaskedTransformerDecoder


def decoder(**settings):
    torch.manual_seed(0)
    options = {"num_queries": 5, "channels": 16, "mask_channels": 8, "num_heads": 2, "feedforward": 16}
    return MaskedTransformerDecoder(num_classes=3, **{**options, "num_layers": 4, "num_levels": 2, **settings}).eval()


def features(seed=1):
    rng = torch.Generator().manual_seed(seed)
    sizes = [(2, 3), (4, 6)]
    return PixelFeatures(
        torch.randn(2, 8, 8, 12, generator=rng), [torch.randn(2, 16, *size, generator=rng) for size in sizes]
    )


def test_predictions_before_and_after_each_layer():
    model = decoder()
    outputs = model(features())
    assert len(outputs) == 5
    assert {tuple(x.class_logits.shape) for x in outputs} == {(2, 5, 4)}
    assert {tuple(x.mask_logits.shape) for x in outputs} == {(2, 5, 8, 12)}
    (last,) = model(features(), last_only=True)
    assert torch.equal(last.mask_logits, outputs[-1].mask_logits)
    assert torch.equal(last.class_logits, outputs[-1].class_logits)


def test_masks_are_products_of_queries_and_pixels():
    model, pixels = decoder(num_layers=0), features()
    (output,) = model(pixels)
    embeddings = model.mask_embedding(model.norm(model.query_features))
    torch.testing.assert_close(output.mask_logits[1, 2, 3, 4], embeddings[2] @ pixels.masks[1, :, 3, 4])


def test_queries_look_inside_their_mask_alone():
    """Queries of the first image have the left half of the map as their mask; those of the second an empty one."""
    model = decoder(num_layers=1)
    pixels = features()
    embedding = model.mask_embedding(model.norm(model.query_features))
    with torch.no_grad():
        model.mask_embedding[4].weight.zero_()
        model.mask_embedding[4].bias.copy_(torch.eye(8)[0])
    assert embedding.shape == (5, 8)
    pixels.masks[0, 0, :, :8], pixels.masks[0, 0, :, 8:], pixels.masks[1, 0] = 1, -1, -1
    before = model(pixels)[-1].class_logits
    changed = [level.clone() for level in pixels.levels]
    changed[0][:, :, :, 2:] += 5  # the last of three columns, which lies right of the masks
    after = model(PixelFeatures(pixels.masks, changed))[-1].class_logits
    assert torch.equal(before[0], after[0])
    assert not torch.allclose(before[1], after[1])  # an empty mask hides nothing
    changed[0][:, :, :, 0] += 5
    assert not torch.allclose(model(PixelFeatures(pixels.masks, changed))[-1].class_logits[0], before[0])


def test_layers_take_the_levels_in_turn():
    model, pixels = decoder(), features()
    before = model(pixels)
    coarse, fine = pixels.levels
    after = model(PixelFeatures(pixels.masks, [coarse, fine + 3]))
    same = [torch.equal(a.class_logits, b.class_logits) for a, b in zip(before, after, strict=True)]
    assert same == [True, True, False, False, False]


def test_every_parameter_learns():
    model = decoder()
    sum(x.class_logits.sin().sum() + x.mask_logits.square().sum() for x in model(features())).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_keeps_all_gradients(dtype):
    """Whatever is read first: autocast remembers its copies of the weights, with or without a gradient."""
    model = decoder()
    with torch.autocast("cpu", dtype=dtype):
        (last,) = model(features(), last_only=True)
        total = last.class_logits.sin().sum() + last.mask_logits.square().sum()
    total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert all(p.grad.abs().sum() > 0 for p in model.mask_embedding.parameters())
