"""Base class of backbone blocks, and the depthwise separable convolution."""

from __future__ import annotations

from collections.abc import Callable

import torch
from fvcore.nn import weight_init
from torch import nn

from .batch_norm import FrozenBatchNorm2d, get_norm
from .wrappers import Conv2d


class CNNBlockBase(nn.Module):
    """A block of a convolutional backbone: (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride).

    A subclass takes at least these three arguments; backbones read them back as attributes.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.stride = stride

    def freeze(self) -> CNNBlockBase:
        """Stop training this block: no parameter needs a gradient, batch norms become frozen. Returns itself."""
        for parameter in self.parameters():
            parameter.requires_grad = False
        FrozenBatchNorm2d.convert_frozen_batchnorm(self)
        return self


class DepthwiseSeparableConv2d(nn.Module):
    """One k x k convolution per channel (``depthwise``), then a 1 x 1 convolution that mixes them (``pointwise``).

    Xception puts norm and activation after the second convolution only, MobileNet after both.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        padding: int = 1,
        dilation: int = 1,
        *,
        norm1: str | Callable | None = None,
        activation1: Callable | None = None,
        norm2: str | Callable | None = None,
        activation2: Callable | None = None,
    ):
        """Args: norm1, activation1 belong to the depthwise, norm2, activation2 to the pointwise convolution."""
        super().__init__()
        window = {"kernel_size": kernel_size, "padding": padding, "dilation": dilation}
        after_depthwise = {"norm": get_norm(norm1, in_channels), "activation": activation1, "bias": not norm1}
        self.depthwise = Conv2d(in_channels, in_channels, groups=in_channels, **window, **after_depthwise)
        after_pointwise = {"norm": get_norm(norm2, out_channels), "activation": activation2, "bias": not norm2}
        self.pointwise = Conv2d(in_channels, out_channels, 1, **after_pointwise)
        for conv in (self.depthwise, self.pointwise):
            weight_init.c2_msra_fill(conv)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pointwise(self.depthwise(x))
