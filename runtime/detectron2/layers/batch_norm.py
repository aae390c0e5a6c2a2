"""Normalisation layers and the names under which configs ask for them."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from fvcore.nn.distributed import differentiable_all_reduce
from torch import nn
from torch.nn import functional as F

from detectron2.utils import comm


class FrozenBatchNorm2d(nn.Module):
    """BatchNorm2d whose statistics and affine terms are constants (buffers), identity at first.

    State: ``weight``, ``bias``, ``running_mean``, ``running_var``, each (num_features,). Caffe2's checkpoints hold
    only the first two, with the statistics folded in; the other two then keep their identity values.
    A checkpoint's ``num_batches_tracked`` is kept if the layer was converted from one that counts.
    """

    _version = 3

    def __init__(self, num_features: int, eps: float = 1e-5):
        super().__init__()
        self.num_features, self.eps = num_features, eps
        ones, zeros = torch.ones(num_features), torch.zeros(num_features)
        # ones - eps: with the eps that forward adds, the new layer is the identity.
        identity = {"weight": ones, "bias": zeros, "running_mean": zeros.clone(), "running_var": ones - eps}
        for name, value in identity.items():
            self.register_buffer(name, value)
        self.register_buffer("num_batches_tracked", None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise (N, C, H, W)."""
        if not x.requires_grad:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        # The fused operator would keep x for gradients of the affine terms, which nobody asks for.
        slope = self.weight * (self.running_var + self.eps).rsqrt()
        offset = self.bias - self.running_mean * slope
        slope, offset = (term.to(x.dtype)[None, :, None, None] for term in (slope, offset))
        return x * slope + offset

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *args, **kwargs):
        if (local_metadata.get("version") or 1) < 2:
            # The oldest checkpoints have no statistics; plain identity ones stand in for them.
            state_dict.setdefault(prefix + "running_mean", torch.zeros_like(self.running_mean))
            state_dict.setdefault(prefix + "running_var", torch.ones_like(self.running_var))
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args, **kwargs)

    def __repr__(self) -> str:
        return f"FrozenBatchNorm2d(num_features={self.num_features}, eps={self.eps})"

    @classmethod
    def convert_frozen_batchnorm(cls, module: nn.Module) -> nn.Module:
        """Freeze every BatchNorm2d and SyncBatchNorm in `module`.

        Returns:
            A new layer if `module` is such a norm itself, otherwise `module`, changed in place.
        """

        def freeze(norm):
            frozen = cls(norm.num_features, norm.eps)
            # The constructor lowers the variance by eps; converted layers take over the exact numbers.
            if norm.affine:
                frozen.weight.data = norm.weight.detach().clone()
                frozen.bias.data = norm.bias.detach().clone()
            frozen.running_mean.data = norm.running_mean.data
            frozen.running_var.data = norm.running_var.data
            frozen.num_batches_tracked = norm.num_batches_tracked
            return frozen

        return _replace_modules(module, (nn.BatchNorm2d, nn.SyncBatchNorm), freeze)

    @classmethod
    def convert_frozenbatchnorm2d_to_batchnorm2d(cls, module: nn.Module) -> nn.Module:
        """The opposite: make every FrozenBatchNorm2d in `module` a BatchNorm2d of the same values.

        Returns:
            A new layer if `module` is a FrozenBatchNorm2d itself, otherwise `module`, changed in place.
        """

        def thaw(frozen):
            norm = nn.BatchNorm2d(frozen.num_features, frozen.eps)
            for name in ("weight", "bias", "running_mean", "running_var"):
                getattr(norm, name).data = getattr(frozen, name).detach().clone()
            norm.num_batches_tracked = frozen.num_batches_tracked
            return norm

        return _replace_modules(module, FrozenBatchNorm2d, thaw)


def _replace_modules(module: nn.Module, kinds, make: Callable[[nn.Module], nn.Module]) -> nn.Module:
    if isinstance(module, kinds):
        return make(module)
    for name, child in module.named_children():
        replacement = _replace_modules(child, kinds, make)
        if replacement is not child:
            module.add_module(name, replacement)
    return module


class NaiveSyncBatchNorm(nn.BatchNorm2d):
    """BatchNorm2d over all workers by averaging each worker's mean and mean of squares, with correct gradients.

    ``stats_mode=""`` gives each worker the same weight, so the statistics are those of all samples only if every
    worker has the same (N, H, W); no worker may have an empty batch. ``stats_mode="N"`` weighs workers by their batch
    size and accepts empty ones.
    """

    def __init__(self, *args, stats_mode: str = "", **kwargs):
        super().__init__(*args, **kwargs)
        assert stats_mode in ("", "N"), f"stats_mode is '' or 'N', got {stats_mode!r}"
        self._stats_mode = stats_mode

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not self.training or comm.get_world_size() == 1:
            return super().forward(input)
        # Means of squares in half precision would lose the variance.
        x = input.float() if input.dtype == torch.float16 else input
        batch, channels = x.shape[:2]
        if self._stats_mode == "":
            assert batch > 0, 'NaiveSyncBatchNorm(stats_mode="") does not support an empty batch'
            moments = torch.cat([x.mean(dim=(0, 2, 3)), (x * x).mean(dim=(0, 2, 3))])
            moments = differentiable_all_reduce(moments) * (1.0 / dist.get_world_size())
            momentum = self.momentum
        else:
            if batch > 0:
                local = torch.cat([x.mean(dim=(0, 2, 3)), (x * x).mean(dim=(0, 2, 3)), x.new_ones(1)])
            else:
                local = x.new_zeros(2 * channels + 1) + x.sum()
            total = differentiable_all_reduce(local * batch)
            samples = total[-1].detach()
            # Without any sample on any worker the running statistics stay as they are.
            momentum = samples.clamp(max=1) * self.momentum
            moments = total[:-1] / samples.clamp(min=1)

        mean, mean_of_squares = moments.split(channels)
        var = mean_of_squares - mean * mean
        slope = self.weight * torch.rsqrt(var + self.eps)
        offset = self.bias - mean * slope
        self.running_mean += momentum * (mean.detach() - self.running_mean)
        self.running_var += momentum * (var.detach() - self.running_var)
        normalised = x * slope[None, :, None, None] + offset[None, :, None, None]
        return normalised.to(input.dtype)


class CycleBatchNormList(nn.ModuleList):
    """Separate statistics per input domain, shared affine terms: call k uses the (k mod length)-th norm.

    Made for a module that runs once on each of `length` inputs (such as feature levels) in a fixed order. The number
    of calls must always be a multiple of `length`, or statistics mix.
    """

    def __init__(self, length: int, bn_class: type[nn.Module] = nn.BatchNorm2d, **kwargs):
        """Args: length: number of domains. bn_class: norm to use. kwargs: its arguments, such as num_features."""
        self._affine = kwargs.pop("affine", True)
        super().__init__([bn_class(**kwargs, affine=False) for _ in range(length)])
        if self._affine:
            channels = self[0].num_features
            self.weight = nn.Parameter(torch.ones(channels))
            self.bias = nn.Parameter(torch.zeros(channels))
        self._pos = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self[self._pos](x)
        self._pos = (self._pos + 1) % len(self)
        if not self._affine:
            return x
        return x * self.weight[None, :, None, None] + self.bias[None, :, None, None]

    def extra_repr(self) -> str:
        return f"affine={self._affine}"


class LayerNorm(nn.Module):
    """Layer norm over the channels of (N, C, H, W), at each position by itself."""

    def __init__(self, normalized_shape: int, eps: float = 1e-6):
        super().__init__()
        self.normalized_shape = (normalized_shape,)
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(normalized_shape))
        self.bias = nn.Parameter(torch.zeros(normalized_shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        centred = x - x.mean(dim=1, keepdim=True)
        variance = centred.pow(2).mean(dim=1, keepdim=True)
        return self.weight[:, None, None] * (centred / torch.sqrt(variance + self.eps)) + self.bias[:, None, None]


_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "BN": nn.BatchNorm2d,
    "SyncBN": nn.SyncBatchNorm,
    "nnSyncBN": nn.SyncBatchNorm,
    "FrozenBN": FrozenBatchNorm2d,
    "GN": lambda channels: nn.GroupNorm(32, channels),
    "naiveSyncBN": NaiveSyncBatchNorm,
    "naiveSyncBN_N": lambda channels: NaiveSyncBatchNorm(channels, stats_mode="N"),
    "LN": LayerNorm,
}


def get_norm(norm: str | Callable[[int], nn.Module] | None, out_channels: int) -> nn.Module | None:
    """Build a normalisation layer.

    Args:
        norm: "BN", "SyncBN", "FrozenBN", "GN" (32 groups), "LN", "naiveSyncBN" or "naiveSyncBN_N"; or a callable that
            makes a layer from a number of channels; or None or "" for no layer.
        out_channels: channels to normalise.

    Raises:
        KeyError: an unknown name.
    """
    if norm is None or norm == "":
        return None
    if isinstance(norm, str):
        if norm not in _NORMS:
            raise KeyError(f"unknown norm {norm!r}; known: {', '.join(_NORMS)}")
        norm = _NORMS[norm]
    return norm(out_channels)
