"""Atrous spatial pyramid pooling of DeepLab."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import torch
from fvcore.nn import weight_init
from torch import nn
from torch.nn import functional as F

from .batch_norm import get_norm
from .blocks import DepthwiseSeparableConv2d
from .wrappers import Conv2d


class ASPP(nn.Module):
    """See one feature map at several scales: a 1 x 1 convolution, three dilated ones, and pooled context.

    ``convs`` holds the five branches in that order, ``project`` the 1 x 1 convolution over their concatenation.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        dilations: list[int],
        *,
        norm: str | Callable,
        activation: Callable,
        pool_kernel_size: tuple[int, int] | None = None,
        dropout: float = 0.0,
        use_depthwise_separable_conv: bool = False,
    ):
        """Build the branches.

        Args:
            in_channels: channels of the input.
            out_channels: channels of each branch and of the result.
            dilations: three rates, for the 3 x 3 convolutions.
            norm: norm of every convolution but the one after pooling, whose input may be a single cell.
            activation: copied for each convolution.
            pool_kernel_size: (height, width) of average pooling with stride 1; None pools the whole map. A fixed
                size lets training crops and larger test images see windows of one size.
            dropout: rate applied to the result in training.
            use_depthwise_separable_conv: build the dilated branches of `DepthwiseSeparableConv2d`.
        """
        super().__init__()
        assert len(dilations) == 3, f"ASPP takes 3 dilations, got {list(dilations)}"
        self.pool_kernel_size = pool_kernel_size
        self.dropout = dropout

        def conv(channels: int, kernel_size: int, *, with_norm: bool = True, dilation: int = 1) -> Conv2d:
            layer = Conv2d(
                channels,
                out_channels,
                kernel_size,
                padding=dilation * (kernel_size // 2),
                dilation=dilation,
                bias=norm == "" if with_norm else True,
                norm=get_norm(norm, out_channels) if with_norm else None,
                activation=deepcopy(activation),
            )
            weight_init.c2_xavier_fill(layer)
            return layer

        def separable(dilation: int) -> DepthwiseSeparableConv2d:
            activations = {f"activation{i}": deepcopy(activation) for i in (1, 2)}
            return DepthwiseSeparableConv2d(
                in_channels, out_channels, 3, dilation, dilation, norm1=norm, norm2=norm, **activations
            )

        self.convs = nn.ModuleList([conv(in_channels, 1)])
        for rate in dilations:
            branch = separable(rate) if use_depthwise_separable_conv else conv(in_channels, 3, dilation=rate)
            self.convs.append(branch)
        pool = nn.AdaptiveAvgPool2d(1) if pool_kernel_size is None else nn.AvgPool2d(pool_kernel_size, stride=1)
        self.convs.append(nn.Sequential(pool, conv(in_channels, 1, with_norm=False)))
        self.project = conv(5 * out_channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H, W).

        Raises:
            ValueError: H or W is no multiple of `pool_kernel_size`.
        """
        height, width = x.shape[-2:]
        if self.pool_kernel_size is not None:
            pool_height, pool_width = self.pool_kernel_size
            if height % pool_height or width % pool_width:
                raise ValueError(
                    f"input of size {(height, width)} is no multiple of pool_kernel_size {self.pool_kernel_size}"
                )
        *local, context = [branch(x) for branch in self.convs]
        context = F.interpolate(context, size=(height, width), mode="bilinear", align_corners=False)
        x = self.project(torch.cat([*local, context], dim=1))
        return F.dropout(x, self.dropout, training=self.training) if self.dropout > 0 else x
