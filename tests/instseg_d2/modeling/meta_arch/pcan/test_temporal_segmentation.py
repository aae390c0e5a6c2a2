"""PCAN's network that redraws masks: shapes, size, and what its parts do."""

import pytest
import torch

from instseg_d2.modeling.meta_arch.pcan.temporal_segmentation import TemporalSegmentation


def test_the_release_has_2_7_million_parameters():
    released = TemporalSegmentation(in_channels=256, num_maps=3, with_context=True)
    sizes = {
        "fuse": 259 * 256 * 9 + 256,
        "context": 256 * 256 + 256,
        "convs": 3 * (256 * 256 * 9 + 256),
        "deconv": 256 * 256 * 4 + 256,
        "predictor": 256 + 1,
    }
    assert {name: sum(p.numel() for p in part.parameters()) for name, part in released.named_children()} == sizes
    assert sum(sizes.values()) == 2_695_681


@pytest.mark.parametrize("count", [0, 3])
def test_masks_have_twice_the_side(count):
    model = TemporalSegmentation(in_channels=4, num_maps=2, conv_dim=8, num_convs=1)
    assert model.context is None
    logits = model(torch.randn(count, 4, 7, 7), torch.randn(count, 2, 7, 7))
    assert logits.shape == (count, 1, 14, 14)


def test_context_is_added_before_any_relu():
    model = TemporalSegmentation(in_channels=1, num_maps=1, with_context=True, conv_dim=1, num_convs=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.fuse.bias.fill_(-5.0)
        model.context.weight.fill_(2.0)
        model.deconv.weight.fill_(1.0)
        model.predictor.weight.fill_(1.0)
        # -5 + 2 * 4 = 3, which the ReLU behind the transposed convolution leaves.
        logits = model(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), torch.tensor([[4.0]]))
    assert torch.equal(logits, torch.full((1, 1, 4, 4), 3.0))
