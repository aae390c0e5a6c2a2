"""Layers that mask heads are made of, with their initial weights."""

import fvcore.nn.weight_init as weight_init
from detectron2.layers import Conv2d, ConvTranspose2d
from torch import nn
from torch.nn import functional as F

from instseg_d2.layers.convolution import conv_tower


def convolutions(in_channels: int, channels: int, number: int) -> nn.Sequential:
    """3x3 convolutions with ReLU, (R, in_channels, H, W) to (R, channels, H, W); none at all for `number` = 0."""
    layers = conv_tower(in_channels, [channels] * number)
    for layer in layers:
        weight_init.c2_msra_fill(layer)
    return layers


class Upsampling(ConvTranspose2d):
    """A 2x2 transposed convolution of stride 2 with ReLU, from side H to 2H."""

    def __init__(self, channels: int):
        super().__init__(channels, channels, kernel_size=2, stride=2)
        weight_init.c2_msra_fill(self)

    def forward(self, x):
        return F.relu(super().forward(x))


def predictor(channels: int, num_outputs: int) -> Conv2d:
    """A 1x1 convolution to logits, whose small weights make all probabilities start near one half."""
    layer = Conv2d(channels, num_outputs, kernel_size=1)
    nn.init.normal_(layer.weight, std=0.001)
    nn.init.zeros_(layer.bias)
    return layer
