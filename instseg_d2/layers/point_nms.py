"""Non-maximum suppression among neighbouring cells of a score map."""

import torch
from torch.nn import functional as F


def point_nms(scores: torch.Tensor, size: int = 2) -> torch.Tensor:
    """Set every score to 0 that is not the highest of its window; equal ones all stay.

    Args:
        scores: (N, C, H, W), not negative.
        size: side of the window. An even one reaches further up and left: 2, that of SOLOv2's code, compares a cell
            with the one above, the one to its left, and the one between these.

    Returns:
        (N, C, H, W).
    """
    before = size // 2
    # Max pooling pads both sides alike; the rows and columns too many of an even window are the last ones.
    highest = F.max_pool2d(scores, size, stride=1, padding=before)[..., : scores.shape[-2], : scores.shape[-1]]
    return scores * (scores == highest)
