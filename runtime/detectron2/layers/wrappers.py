"""torch operators with additions that the models rely on: norm and activation in a convolution, empty inputs."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

BatchNorm2d = nn.BatchNorm2d
ConvTranspose2d = nn.ConvTranspose2d
Linear = nn.Linear
interpolate = F.interpolate


def shapes_to_tensor(x: list[int], device: torch.device | None = None) -> torch.Tensor:
    """A vector of sizes from ints, or from scalar tensors (which stay connected while tracing)."""
    if torch.jit.is_tracing() and x and all(isinstance(size, torch.Tensor) for size in x):
        return torch.stack(list(x)).to(device=device)
    return torch.as_tensor(x, device=device)


def move_device_like(src: torch.Tensor, dst: torch.Tensor) -> torch.Tensor:
    """`src` on the device of `dst`."""
    return src.to(dst.device)


def check_if_dynamo_compiling() -> bool:
    """Whether this code is being traced by `torch.compile`."""
    return torch.compiler.is_compiling()


def disable_torch_compiler(func: Callable) -> Callable:
    """Decorate a function that `torch.compile` must run as it is."""
    return torch.compiler.disable(func)


def cat(tensors: list[torch.Tensor], dim: int = 0) -> torch.Tensor:
    """`torch.cat` that hands a single tensor back instead of copying it."""
    assert isinstance(tensors, (list, tuple)), f"cat takes a list of tensors, got {type(tensors).__name__}"
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim)


def nonzero_tuple(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Indices of the nonzero elements, one vector per dimension."""
    return x.nonzero(as_tuple=True)


def empty_input_loss_func_wrapper(loss_func: Callable) -> Callable:
    """Make a loss over (input, target) give 0, with zero gradient, for the mean over no elements."""

    @functools.wraps(loss_func)
    def loss_or_zero(input, target, *, reduction="mean", **kwargs):
        if reduction == "mean" and not target.numel():
            return input.sum() * 0.0
        return loss_func(input, target, reduction=reduction, **kwargs)

    return loss_or_zero


cross_entropy = empty_input_loss_func_wrapper(F.cross_entropy)


class _NewEmptyTensorOp(torch.autograd.Function):
    """An empty tensor of a given shape that stays connected to the graph of an empty input."""

    @staticmethod
    def forward(ctx, x, new_shape):
        ctx.old_shape = x.shape
        return x.new_empty(new_shape)

    @staticmethod
    def backward(ctx, grad):
        return grad.new_empty(ctx.old_shape), None


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d` followed by an optional norm and an optional activation.

    Args:
        *args: as `torch.nn.Conv2d`, like all other keyword arguments.
        norm: (nn.Module, optional) applied to the convolution's result.
        activation: (callable, optional) applied last.
    """

    def __init__(self, *args, **kwargs):
        norm, activation = kwargs.pop("norm", None), kwargs.pop("activation", None)
        super().__init__(*args, **kwargs)
        self.norm = norm
        self.activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Raises AssertionError for an empty batch in training under SyncBatchNorm, which would hang the workers."""
        if self.training and isinstance(self.norm, nn.SyncBatchNorm):
            assert x.numel() > 0, "SyncBatchNorm does not support empty inputs in training"
        # F.conv2d, not super().forward: subclasses and padding modes of nn.Conv2d are not part of this contract.
        x = F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
        x = x if self.norm is None else self.norm(x)
        return x if self.activation is None else self.activation(x)
