"""Where masks have their middle."""

import torch


@torch.no_grad()
def mass_centers(masks: torch.Tensor) -> torch.Tensor:
    """Center of mass of each mask.

    The pixel of column j and row i has its middle at (j + 0.5, i + 0.5), so that the center of a filled box is exactly
    the box's own.

    Args:
        masks: (N, H, W) bool, or weights >= 0.

    Returns:
        (N, 2) float32 xy in pixels; NaN where a mask is empty.
    """
    weights = masks.float()
    centers = []
    for others in (1, 2):  # what stays when rows (1) or columns (2) are summed up: the profile along x, along y
        profile = weights.sum(dim=others)
        positions = torch.arange(profile.shape[1], device=masks.device) + 0.5
        centers.append((profile * positions).sum(dim=1) / profile.sum(dim=1))
    return torch.stack(centers, dim=1)
