"""Maps of key points: targets and losses where a handful of cells among thousands is positive."""

import torch
from torch.nn import functional as F


@torch.no_grad()
def paint_points(rows: torch.Tensor, cells: torch.Tensor, shape: tuple[int, int, int], *, sigma: float) -> torch.Tensor:
    """Draw each point as 1 in its cell, with a Gaussian around it.

    Args:
        rows: (P,) int64, the map that each point is on.
        cells: (P, 2) int64, its column and line.
        shape: (M, H, W) of the maps.
        sigma: of the Gaussian, cells; 0 for the cells of the points alone. Where several reach, the highest counts.

    Returns:
        (M, H, W) float32 in [0, 1].
    """
    count, height, width = shape
    maps = torch.zeros(shape, device=cells.device)
    if sigma == 0:
        maps[rows, cells[:, 1], cells[:, 0]] = 1
        return maps
    x, y = (
        torch.exp(-(torch.arange(size, device=cells.device) - cells[:, axis, None]).square() / (2 * sigma**2))
        for axis, size in ((0, width), (1, height))
    )
    each = y[:, :, None] * x[:, None, :]
    return maps.scatter_reduce_(0, rows[:, None, None].expand_as(each), each, "amax")


def key_point_focal_loss(
    logits: torch.Tensor, targets: torch.Tensor, *, alpha: float = 2.0, beta: float = 4.0
) -> torch.Tensor:
    """Sum the focal loss of painted points (CornerNet, arXiv:1808.01244, Eq. 1), lenient near the points.

    Args:
        logits: any shape; computed with in float32.
        targets: the same shape, in [0, 1]; positive where 1.
        alpha: how much easy cells are damped.
        beta: how much cells near a point are excused.

    Returns:
        A scalar.
    """
    logits = logits.float()
    probabilities = logits.sigmoid()
    positive = (1 - probabilities) ** alpha * F.logsigmoid(logits)
    negative = (1 - targets) ** beta * probabilities**alpha * F.logsigmoid(-logits)
    return -torch.where(targets == 1, positive, negative).sum()
