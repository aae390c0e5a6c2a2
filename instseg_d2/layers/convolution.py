"""The convolutions that heads are made of, with torch's own initial weights."""

from collections.abc import Callable, Sequence

from detectron2.layers import Conv2d, get_norm
from torch import nn
from torch.nn import functional as F

Norm = str | Callable[[int], nn.Module]


def conv_block(in_channels: int, out_channels: int, *, norm: Norm = "", kernel_size: int = 3) -> Conv2d:
    """A convolution that keeps the size of the map, its norm, and ReLU.

    Args:
        in_channels: of the (N, in_channels, H, W) input.
        out_channels: of the (N, out_channels, H, W) output.
        norm: as `detectron2.layers.get_norm` takes it; "" for none, and then the convolution has a bias.
        kernel_size: odd.
    """
    return Conv2d(
        in_channels,
        out_channels,
        kernel_size=kernel_size,
        padding=kernel_size // 2,
        bias=not norm,
        norm=get_norm(norm, out_channels),
        activation=F.relu,
    )


def conv_tower(in_channels: int, conv_dims: Sequence[int], *, norm: Norm = "") -> nn.Sequential:
    """A `conv_block` of 3x3 behind each other for each number of `conv_dims`, its output channels."""
    widths = [in_channels, *conv_dims]
    return nn.Sequential(*(conv_block(a, b, norm=norm) for a, b in zip(widths, widths[1:], strict=False)))
