"""Where on a map a cell lies, as waves that attention can tell apart."""

import math

import torch


def sine_positions(
    size: tuple[int, int], channels: int, *, temperature: float = 10000.0, device: torch.device | None = None
) -> torch.Tensor:
    """Sines and cosines of the row, then of the column, at periods that grow (DETR, arXiv:2005.12872, Sec. A.4).

    Rows and columns count from 1 and are scaled so that the last is at 2 pi: a map of another size has the same range.

    Args:
        size: (height, width) of the map.
        channels: half of them tell the row, half the column; sine and cosine take turns.
        temperature: ratio of the longest to the shortest period, nearly.
        device: of the result.

    Returns:
        (channels, height, width) float32, in [-1, 1].

    Raises:
        ValueError: `channels` is not a multiple of 4.
    """
    if channels % 4:
        raise ValueError(f"channels={channels}: must be a multiple of 4, as rows and columns have sines and cosines")
    pairs = torch.arange(channels // 4, dtype=torch.float32, device=device)
    periods = temperature ** (4 * pairs / channels)
    rows, columns = (_waves(extent, periods) for extent in size)
    height, width = size
    return torch.cat([rows[:, :, None].expand(-1, -1, width), columns[:, None, :].expand(-1, height, -1)])


def _waves(extent: int, periods: torch.Tensor) -> torch.Tensor:
    """(2 * len(periods), extent): sine and cosine of each period in turn."""
    places = torch.arange(1, extent + 1, dtype=torch.float32, device=periods.device) / extent * (2 * math.pi)
    angles = places / periods[:, None]
    return torch.stack([angles.sin(), angles.cos()], dim=1).flatten(0, 1)
