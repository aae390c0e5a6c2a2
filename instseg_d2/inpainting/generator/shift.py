"""Temporal shift: some channels come from other frames (TSM, arXiv:1811.08383; LGTSM, arXiv:1907.01131)."""

from collections.abc import Sequence

import torch
from torch import nn


class TemporalShift(nn.Module):
    """Replaces some channels of each frame by what a short filter along time makes of them; zeros beyond both ends.

    The channels are cut into groups: group i has `share` of them and one filter of `width` taps, which starts as a
    pure shift, frame t gets what frame t + offsets[i] has. The channels after the last group stay.

    Sec. 5.4.3 only says that the receptive field n is larger than TSM's 1. The default has n = 2: filters of 5 taps
    that start as LGTSM's shifts by one frame, and learn. Fixed shifts by two frames are
    `offsets=(-2, -1, 1, 2), share=1 / 8, learnable=False`, TSM is `offsets=(1, -1), share=1 / 8, width=3,
    learnable=False`.

    Args:
        width: taps, odd; the reach is n = width // 2 frames either way.
        offsets: of each group at the start, in [-n, n].
        share: of the channels in each group; whole channels, rounded down.
        learnable: the filters are parameters; else they stay as they are.

    Raises:
        ValueError: the width is even, an offset lies beyond the filter, or the shares add up to more than 1.
    """

    def __init__(
        self,
        *,
        width: int = 5,
        offsets: Sequence[int] = (1, -1),
        share: float = 0.25,
        learnable: bool = True,
    ):
        super().__init__()
        offsets = list(offsets)
        if width % 2 == 0 or any(abs(offset) > width // 2 for offset in offsets):
            raise ValueError(f"filters of width={width} (must be odd) cannot shift by offsets={offsets}")
        if share * len(offsets) > 1:
            raise ValueError(f"{len(offsets)} groups of share={share} are more than all channels")
        self.share = share
        taps = torch.zeros(len(offsets), width)
        taps[torch.arange(len(offsets)), torch.tensor(offsets) + width // 2] = 1.0
        if learnable:
            self.filters = nn.Parameter(taps)
        else:
            self.register_buffer("filters", taps)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, T, C, H, W) to a new tensor of the same shape."""
        size = int(maps.shape[2] * self.share)
        groups, width = self.filters.shape
        *moved, kept = maps.split([size] * groups + [maps.shape[2] - groups * size], dim=2)
        # Frame t gets tap s - t + n of frame s: a band matrix, and beyond the ends there is nothing to multiply with.
        time = torch.arange(maps.shape[1], device=maps.device)
        tap = time - time[:, None] + width // 2
        mixing = self.filters[:, tap.clamp(0, width - 1)] * ((tap >= 0) & (tap < width))
        mixed = [
            (matrix.to(maps.dtype) @ part.flatten(2)).view(part.shape)
            for matrix, part in zip(mixing, moved, strict=True)
        ]
        return torch.cat([*(part.to(maps.dtype) for part in mixed), kept], dim=2)
