"""The convolutions of heads."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from instseg_d2.layers.convolution import conv_block, conv_tower


@pytest.mark.parametrize("kernel_size", [1, 3])
def test_block_is_convolution_norm_and_relu(kernel_size):
    x = torch.randn(2, 4, 5, 7)
    plain = conv_block(4, 6, kernel_size=kernel_size)
    convolved = F.conv2d(x, plain.weight, plain.bias, padding=kernel_size // 2)
    torch.testing.assert_close(plain(x), convolved.relu())
    normed = conv_block(4, 6, norm=lambda channels: nn.GroupNorm(2, channels), kernel_size=kernel_size)
    assert normed.bias is None
    convolved = F.conv2d(x, normed.weight, padding=kernel_size // 2)
    torch.testing.assert_close(normed(x), F.group_norm(convolved, 2).relu())


def test_tower_of_given_widths():
    tower = conv_tower(3, [8, 4], norm="BN")
    assert [tuple(layer.weight.shape) for layer in tower] == [(8, 3, 3, 3), (4, 8, 3, 3)]
    assert tower(torch.randn(2, 3, 5, 7)).shape == (2, 4, 5, 7)
    x = torch.randn(2, 3, 5, 7)
    assert conv_tower(3, [])(x) is x
