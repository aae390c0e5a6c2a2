"""Upsampling of maps that keeps to the grid of their locations."""

import torch
from torch.nn import functional as F


def aligned_bilinear(x: torch.Tensor, factor: int) -> torch.Tensor:
    """Upsample so that locations keep their values: CondInst's alignment, which its weights are trained for.

    Index j of the result reads the input at (j - factor // 2) / factor; beyond the border its edge goes on. So a map
    of stride s, upsampled by s, has at pixel s // 2 + s * i, where FCOS has its locations, the value of index i.
    `interpolate(align_corners=False)` reads half a pixel of the result beside it when the factor is even.

    Args:
        x: (N, C, H, W).
        factor: 1 or more.

    Returns:
        (N, C, factor * H, factor * W).
    """
    if factor == 1:
        return x
    height, width = x.shape[2:]
    # With a repeated edge on all sides, corners that are aligned give steps of exactly 1 / factor from index -1 on.
    x = F.pad(x, (1, 1, 1, 1), mode="replicate")
    size = (factor * (height + 1) + 1, factor * (width + 1) + 1)
    x = F.interpolate(x, size=size, mode="bilinear", align_corners=True)
    start = factor - factor // 2
    return x[:, :, start : start + factor * height, start : start + factor * width]
