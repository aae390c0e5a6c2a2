"""Attention among the patches of all frames, at one patch size a head (eq. 5.9, 5.10)."""

from collections.abc import Sequence
from math import lcm

import torch
from torch import nn
from torch.nn import functional as F


def to_tokens(maps: torch.Tensor, grid: int) -> torch.Tensor:
    """Cut maps into grid x grid patches: (B, T, C, H, W) to (B, T * grid^2, C * (H / grid) * (W / grid))."""
    batch, length, channels, height, width = maps.shape
    patches = maps.reshape(batch, length, channels, grid, height // grid, grid, width // grid)
    return patches.permute(0, 1, 3, 5, 2, 4, 6).reshape(batch, length * grid * grid, -1)


def from_tokens(tokens: torch.Tensor, grid: int, shape: torch.Size) -> torch.Tensor:
    """Put patches together again: undoes `to_tokens` for maps of `shape` (B, T, C, H, W)."""
    batch, length, channels, height, width = shape
    patches = tokens.reshape(batch, length, grid, grid, channels, height // grid, width // grid)
    return patches.permute(0, 1, 4, 2, 5, 3, 6).reshape(shape)


class MultiScaleAttention(nn.Module):
    """Heads that each attend among patches of another size, cut from the whole clip (eq. 5.9, 5.10; STTN's layout).

    Head i has C / k channels and its own grid. All its patches of all frames attend to each other,
    softmax(Q K^T / sqrt(d)) V with d the length of a flattened patch. Eq. 5.10 is printed with the root outside of the
    softmax, but called scaled dot-product attention, which has it inside. f_c is a 3x3 convolution with LeakyReLU.

    Args:
        channels: C, a multiple of the number of heads.
        grids: of each head, how many patches there are along either axis; k = len(grids).
        slope: of LeakyReLU.

    Raises:
        ValueError: the heads cannot share the channels evenly.
    """

    def __init__(self, *, channels: int, grids: Sequence[int], slope: float = 0.2):
        super().__init__()
        self.grids = tuple(grids)
        if not self.grids or channels % len(self.grids):
            raise ValueError(f"channels={channels} must be a multiple of the number of heads, {len(self.grids)}")
        self.query = nn.Conv2d(channels, channels, 1)
        self.key = nn.Conv2d(channels, channels, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.merge = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.LeakyReLU(slope))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, T, C, H, W) to the same shape; H and W are multiples of all grids."""
        flat, clips = maps.flatten(0, 1), maps.shape[:2]
        parts = [
            layer(flat).unflatten(0, clips).chunk(len(self.grids), dim=2)
            for layer in (self.query, self.key, self.value)
        ]
        heads = [self._attend(*part, grid=grid) for *part, grid in zip(*parts, self.grids, strict=True)]
        return self.merge(torch.cat(heads, dim=2).flatten(0, 1)).unflatten(0, clips)

    @staticmethod
    def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, grid: int) -> torch.Tensor:
        # A patch has up to some 400,000 numbers: their products overflow half precision before they are scaled.
        with torch.autocast(query.device.type, enabled=False):
            wide = torch.promote_types(query.dtype, torch.float32)
            tokens = [to_tokens(maps.to(wide), grid) for maps in (query, key, value)]
            return from_tokens(F.scaled_dot_product_attention(*tokens), grid, query.shape)


class TransformerLayer(nn.Module):
    """Attention and a convolutional feed-forward part, each added to its input; no normalization, no positions.

    Args:
        channels: C.
        grids: see `MultiScaleAttention`.
        dilation: of the first of the two 3x3 convolutions of the feed-forward part.
        slope: of LeakyReLU.
    """

    def __init__(self, *, channels: int = 256, grids: Sequence[int] = (1, 3, 6, 12), dilation: int = 2, slope=0.2):
        super().__init__()
        self.attention = MultiScaleAttention(channels=channels, grids=grids, slope=slope)
        self.feed_forward = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation),
            nn.LeakyReLU(slope),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.LeakyReLU(slope),
        )

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, T, C, H, W) to the same shape."""
        maps = maps + self.attention(maps)
        return maps + self.feed_forward(maps.flatten(0, 1)).unflatten(0, maps.shape[:2])


class SpaceTimeTransformer(nn.Module):
    """Layers of attention over all patches of all frames.

    The defaults are STTN's (arXiv:2007.10247), whose 8 layers of 4 heads the paper's figure shows: patches of 108x60,
    36x20, 18x10 and 9x5 cells (width x height) on maps of 108x60.

    Args:
        channels: C.
        num_layers: how many layers.
        grids: patches along either axis, one number a head; for small maps leave the finest out.
        dilation: see `TransformerLayer`.
        slope: of LeakyReLU.
    """

    def __init__(
        self,
        *,
        channels: int = 256,
        num_layers: int = 8,
        grids: Sequence[int] = (1, 3, 6, 12),
        dilation: int = 2,
        slope: float = 0.2,
    ):
        super().__init__()
        grids = tuple(grids)
        self.multiple = lcm(*grids)
        self.layers = nn.Sequential(
            *(
                TransformerLayer(channels=channels, grids=grids, dilation=dilation, slope=slope)
                for _ in range(num_layers)
            )
        )

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, T, C, H, W) to the same shape; H and W are multiples of `self.multiple`."""
        return self.layers(maps)
