"""Deformable convolutions v1 and v2 on torchvision's operator."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.modules.utils import _pair
from torchvision.ops import deform_conv2d

from .wrappers import _NewEmptyTensorOp


def deform_conv(
    input: torch.Tensor,
    offset: torch.Tensor,
    weight: torch.Tensor,
    stride=1,
    padding=0,
    dilation=1,
    groups: int = 1,
    deformable_groups: int = 1,
    im2col_step: int = 64,
) -> torch.Tensor:
    """Deformable convolution v1; see `DeformConv`. `im2col_step` is accepted and has no effect."""
    return _convolve(input, offset, None, weight, None, stride, padding, dilation, groups, deformable_groups)


def modulated_deform_conv(
    input: torch.Tensor,
    offset: torch.Tensor,
    mask: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride=1,
    padding=0,
    dilation=1,
    groups: int = 1,
    deformable_groups: int = 1,
) -> torch.Tensor:
    """Deformable convolution v2; see `ModulatedDeformConv`."""
    return _convolve(input, offset, mask, weight, bias, stride, padding, dilation, groups, deformable_groups)


def _convolve(x, offset, mask, weight, bias, stride, padding, dilation, groups, deformable_groups):
    if x.dim() != 4:
        raise ValueError(f"deformable convolution takes a 4D input, got {x.dim()}D")
    # torchvision reads both group numbers off the shapes; a mismatch would pass as other groups.
    taps = deformable_groups * weight.shape[2] * weight.shape[3]
    if offset.shape[1] != 2 * taps:
        raise RuntimeError(f"offset needs {2 * taps} channels (y, x per tap and group), got {offset.shape[1]}")
    if mask is not None and mask.shape[1] != taps:
        raise RuntimeError(f"mask needs {taps} channels (one per tap and group), got {mask.shape[1]}")
    if x.shape[1] != groups * weight.shape[1]:
        raise RuntimeError(f"weight expects {groups * weight.shape[1]} input channels, got {x.shape[1]}")
    return deform_conv2d(x, offset, weight, bias, _pair(stride), _pair(padding), _pair(dilation), mask)


class _DeformableBase(nn.Module):
    """Parameters, empty inputs, and what follows the convolution, for both versions."""

    def _setup(self, in_channels, out_channels, kernel_size, groups, deformable_groups, bias, norm, activation):
        assert in_channels % groups == 0, f"in_channels {in_channels} is not divisible by groups {groups}"
        assert out_channels % groups == 0, f"out_channels {out_channels} is not divisible by groups {groups}"
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = _pair(kernel_size)
        self.groups, self.deformable_groups = groups, deformable_groups
        self.norm, self.activation = norm, activation
        self.with_bias = bias
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, *self.kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        nn.init.kaiming_uniform_(self.weight, nonlinearity="relu")

    def _apply_conv(self, x, offset, mask):
        if not x.numel():
            return _NewEmptyTensorOp.apply(x, self._output_shape(x))
        geometry = self.stride, self.padding, self.dilation, self.groups, self.deformable_groups
        x = _convolve(x, offset, mask, self.weight, self.bias, *geometry)
        x = x if self.norm is None else self.norm(x)
        return x if self.activation is None else self.activation(x)

    def _output_shape(self, x):
        geometry = zip(
            x.shape[-2:],
            self.kernel_size,
            _pair(self.stride),
            _pair(self.padding),
            _pair(self.dilation),
            strict=True,
        )
        sides = [(size + 2 * pad - dil * (k - 1) - 1) // step + 1 for size, k, step, pad, dil in geometry]
        return [x.shape[0], self.out_channels, *sides]

    def extra_repr(self) -> str:
        names = (
            "in_channels",
            "out_channels",
            "kernel_size",
            "stride",
            "padding",
            "dilation",
            "groups",
            "deformable_groups",
        )
        return ", ".join([f"{name}={getattr(self, name)}" for name in names] + [f"bias={self.with_bias}"])


class DeformConv(_DeformableBase):
    """Deformable convolution (arXiv:1703.06211): each kernel tap samples at its own predicted offset.

    Args are those of `Conv2d`, and ``deformable_groups``, the number of channel groups with offsets of their own.
    There is no bias. ``norm`` and ``activation`` follow the convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size,
        stride=1,
        padding=0,
        dilation=1,
        groups: int = 1,
        deformable_groups: int = 1,
        bias: bool = False,
        norm: nn.Module | None = None,
        activation: Callable | None = None,
    ):
        super().__init__()
        assert not bias, "DeformConv has no bias; ModulatedDeformConv does"
        self.stride = _pair(stride)
        self.padding = _pair(padding)
        self.dilation = _pair(dilation)
        self._setup(in_channels, out_channels, kernel_size, groups, deformable_groups, False, norm, activation)

    def forward(self, x: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
        """Convolve.

        Args:
            x: (N, in_channels, H, W). Empty input gives an empty result of the right shape.
            offset: (N, 2 * deformable_groups * kh * kw, H_out, W_out): y, x per tap, in cells of `x`.
        """
        return self._apply_conv(x, offset, None)


class ModulatedDeformConv(_DeformableBase):
    """Deformable convolution v2 (arXiv:1811.11168): each tap also has a weight of its own at each place.

    Args are those of `DeformConv`, but there may be a bias.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size,
        stride=1,
        padding=0,
        dilation=1,
        groups: int = 1,
        deformable_groups: int = 1,
        bias: bool = True,
        norm: nn.Module | None = None,
        activation: Callable | None = None,
    ):
        super().__init__()
        self.stride = stride
        self.padding = padding
        self.dilation = dilation
        self._setup(in_channels, out_channels, kernel_size, groups, deformable_groups, bias, norm, activation)

    def forward(self, x: torch.Tensor, offset: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Convolve.

        Args:
            x: (N, in_channels, H, W). Empty input gives an empty result of the right shape.
            offset: (N, 2 * deformable_groups * kh * kw, H_out, W_out): y, x per tap, in cells of `x`.
            mask: (N, deformable_groups * kh * kw, H_out, W_out): the weights, usually after a sigmoid.
        """
        return self._apply_conv(x, offset, mask)
