"""Feature maps that know where they are (CoordConv, arXiv:1807.03247)."""

import torch


def append_coordinates(features: torch.Tensor) -> torch.Tensor:
    """Add two channels with the position of each cell: x, then y, from -1 in the first column or row to 1 in the last.

    Args:
        features: (N, C, H, W).

    Returns:
        (N, C + 2, H, W), of the same dtype.
    """
    count, _, height, width = features.shape
    x = torch.linspace(-1, 1, width, device=features.device, dtype=features.dtype)
    y = torch.linspace(-1, 1, height, device=features.device, dtype=features.dtype)
    x = x.expand(count, 1, height, width)
    y = y[:, None].expand(count, 1, height, width)
    return torch.cat([features, x, y], dim=1)
