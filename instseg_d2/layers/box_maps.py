"""Filled boxes on the grid of a coarser map."""

import torch


def box_maps(boxes: torch.Tensor, size: tuple[int, int], stride: int) -> torch.Tensor:
    """Say for each point of a grid whether it lies in a box.

    The points are the pixels `stride // 2 + stride * i` of the image, as AdelaiDet samples masks. A pixel belongs to a
    box if it lies from int(x0) to int(x1), both included. Unlike there, a box that falls between the points takes the
    nearest one, so that an instance thinner than the stride has something to learn from.

    Args:
        boxes: (M, 4) xyxy pixels; may reach beyond the image.
        size: (height, width) of the grid.
        stride: pixels between points.

    Returns:
        (M, height, width) bool; empty for boxes wholly outside the grid.
    """
    columns = _covered(boxes[:, 0], boxes[:, 2], size[1], stride)
    rows = _covered(boxes[:, 1], boxes[:, 3], size[0], stride)
    return rows[:, :, None] & columns[:, None, :]


def _covered(start: torch.Tensor, end: torch.Tensor, extent: int, stride: int) -> torch.Tensor:
    """(M, extent) bool: the points of one axis between start and end."""
    indices = torch.arange(extent, device=start.device)
    points = stride // 2 + stride * indices
    inside = (points >= start[:, None].trunc()) & (points < (end[:, None] + 1).trunc())
    nearest = (((start + end) / 2 - stride // 2) / stride).round().clamp(0, extent - 1)
    missed = ~inside.any(dim=1) & (end > 0) & (start < extent * stride)
    return inside | (missed[:, None] & (indices == nearest[:, None]))
