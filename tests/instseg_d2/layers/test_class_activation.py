import pytest
import torch
from torch.nn import functional as F

from instseg_d2.layers.class_activation import class_activation_maps, stretch_maps


def test_maps_are_the_classifier_at_each_position():
    torch.manual_seed(0)
    features, weights, classes = torch.randn(4, 6, 7, 7), torch.randn(5, 6), torch.tensor([0, 4, 2, 2])
    everything = F.conv2d(features, weights[:, :, None, None])
    maps = class_activation_maps(features, weights, classes)
    torch.testing.assert_close(maps, everything[torch.arange(4), classes])
    logits = F.linear(features.mean(dim=(2, 3)), weights)
    torch.testing.assert_close(maps.mean(dim=(1, 2)), logits[torch.arange(4), classes])


def test_stretched_by_hand():
    maps = torch.tensor([[[1.0, 3.0], [2.0, 5.0]], [[-4.0, -4.0], [-2.0, -3.0]]])
    stretched = stretch_maps(maps, (2, 2))
    assert torch.equal(stretched[:, 0], torch.tensor([[[0, 0.5], [0.25, 1]], [[0, 0], [1, 0.5]]]))
    assert stretch_maps(maps, (4, 4)).shape == (2, 1, 4, 4)
    # Twice the size, bilinear: a quarter and three quarters of the way between the first two.
    torch.testing.assert_close(stretch_maps(maps, (4, 4))[0, 0, 0], torch.tensor([0, 0.125, 0.375, 0.5]))


def test_in_range_for_any_scale():
    torch.manual_seed(0)
    maps = torch.randn(3, 7, 7) * torch.tensor([1e-3, 1.0, 1e6])[:, None, None]
    stretched = stretch_maps(maps, (7, 7)).flatten(1)
    assert torch.equal(stretched.amin(dim=1), torch.zeros(3))
    torch.testing.assert_close(stretched.amax(dim=1), torch.ones(3))


@pytest.mark.parametrize("value", [0.0, 1e20, -3.0])
def test_constant_maps_are_zero_with_finite_gradients(value):
    maps = torch.full((2, 7, 7), value, requires_grad=True)
    stretched = stretch_maps(maps, (14, 14))
    assert not stretched.any()
    (stretched * torch.randn(14, 14)).sum().backward()
    assert maps.grad.isfinite().all()


def test_without_regions():
    features = torch.zeros(0, 6, 7, 7, requires_grad=True)
    maps = class_activation_maps(features, torch.randn(5, 6), torch.zeros(0, dtype=torch.int64))
    stretch_maps(maps, (14, 14)).sum().backward()
    assert features.grad.shape == features.shape
