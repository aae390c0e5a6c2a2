"""Aligned upsampling: where each index reads, by hand; masks brought to the output in parts."""

from functools import partial

import pytest
import torch
from torch.nn import functional as F

from instseg_d2.layers.mask_scaling import enlarge_masks
from instseg_d2.layers.upsample import aligned_bilinear

resize = partial(enlarge_masks, stride=4, upsample=aligned_bilinear)


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 8])
def test_index_j_reads_at_j_less_half_the_factor(factor):
    """On a ramp the value is the coordinate that is read, cut at the ends."""
    ramp = torch.arange(5.0).expand(1, 1, 4, 5)
    read = ((torch.arange(5 * factor) - factor // 2) / factor).clamp(0, 4)
    result = aligned_bilinear(ramp, factor)
    assert result.shape == (1, 1, 4 * factor, 5 * factor)
    assert torch.allclose(result, read.expand_as(result), atol=1e-5)
    upright = aligned_bilinear(ramp.transpose(2, 3), factor)
    assert torch.allclose(upright, result.transpose(2, 3), atol=1e-5)


def test_by_hand():
    result = aligned_bilinear(torch.tensor([[[[0.0, 4.0]]]]), 2)
    assert result.tolist() == [[[[0, 0, 2, 4], [0, 0, 2, 4]]]]


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_locations_of_fcos_keep_their_values(stride):
    coarse = torch.rand(1, 1, 3, 4, generator=torch.Generator().manual_seed(0))
    fine = aligned_bilinear(coarse, stride)
    assert torch.allclose(fine[:, :, stride // 2 :: stride, stride // 2 :: stride], coarse, atol=1e-6)


def test_batch_of_none():
    x = torch.zeros(0, 1, 3, 4, requires_grad=True)
    result = aligned_bilinear(x, 2)
    assert result.shape == (0, 1, 6, 8)
    result.sum().backward()
    assert x.grad.shape == x.shape


def whole(probabilities, factor, image_size, output_size):
    maps = aligned_bilinear(probabilities[:, None], factor)[:, :, : image_size[0], : image_size[1]]
    return F.interpolate(maps, size=output_size, mode="bilinear", align_corners=False)[:, 0] > 0.5


@pytest.mark.parametrize("output_size", [(30, 41), (61, 83)])
@pytest.mark.parametrize("max_elements", [1, 3 * 64 * 96, 2**25])
def test_parts_give_what_the_whole_gives(output_size, max_elements):
    probabilities = torch.rand(7, 8, 12, generator=torch.Generator().manual_seed(0))
    masks = resize(probabilities, image_size=(30, 41), output_size=output_size, max_elements=max_elements)
    assert masks.dtype == torch.bool
    assert torch.equal(masks, whole(probabilities, 4, (30, 41), output_size))
    assert 0.2 < masks.float().mean() < 0.8


def test_no_masks():
    assert resize(torch.zeros(0, 8, 12), image_size=(30, 41), output_size=(60, 82)).shape == (0, 60, 82)


def test_threshold_is_exceeded_not_met():
    probabilities = torch.tensor([[[0.5]], [[0.51]]])
    sizes = {"image_size": (4, 4), "output_size": (4, 4)}
    assert resize(probabilities, **sizes).flatten(1).any(dim=1).tolist() == [False, True]
    assert resize(probabilities, **sizes, threshold=0.6).any().item() is False
