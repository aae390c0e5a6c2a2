import pytest
import torch
from torch import nn
from torch.nn import functional as F

from instseg_d2.inpainting.initialization import keep_scale


@pytest.mark.parametrize("slope", [0.0, 0.2])
def test_scale_is_kept_through_many_layers(slope):
    torch.manual_seed(0)
    layers = nn.Sequential(*(nn.Conv2d(64, 64, 3, padding=1, padding_mode="circular") for _ in range(8)))
    keep_scale(layers, slope)
    maps = torch.randn(2, 64, 8, 8)
    for layer in layers:
        maps = F.leaky_relu(layer(maps), slope)
    assert 0.5 < maps.square().mean() < 2
    assert all(layer.bias.eq(0).all() for layer in layers)


def test_other_layers_and_missing_biases_are_left_alone():
    layers = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False), nn.Linear(2, 2))
    before = layers[1].weight.detach().clone()
    keep_scale(layers, 0.2)
    assert layers[1].weight.equal(before)
