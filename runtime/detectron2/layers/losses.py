"""Box regression losses on IoU with penalties: DIoU and CIoU."""

from __future__ import annotations

import math

import torch


def diou_loss(boxes1: torch.Tensor, boxes2: torch.Tensor, reduction: str = "none", eps: float = 1e-7) -> torch.Tensor:
    """Distance-IoU loss (arXiv:1911.08287, eq. 7): 1 - IoU + squared centre distance / squared enclosing diagonal.

    Args:
        boxes1: predictions (N, 4) or (4,), xyxy.
        boxes2: targets of the same shape.
        reduction: "none" for one value per box, "mean" (0 for no boxes), or "sum".
        eps: added to the denominators.

    Raises:
        AssertionError: a prediction with x1 < x0 or y1 < y0.
    """
    iou, distance = _iou_and_distance(boxes1, boxes2, eps)
    return _reduce(1 - iou + distance, reduction)


def ciou_loss(boxes1: torch.Tensor, boxes2: torch.Tensor, reduction: str = "none", eps: float = 1e-7) -> torch.Tensor:
    """Complete-IoU loss (arXiv:1911.08287, eq. 10): DIoU plus a penalty on the difference of aspect ratios.

    Arguments and errors are those of `diou_loss`. The weight of the penalty takes no gradient.
    """
    iou, distance = _iou_and_distance(boxes1, boxes2, eps)
    aspect = 4 / math.pi**2 * (_aspect_angle(boxes2) - _aspect_angle(boxes1)).pow(2)
    with torch.no_grad():
        weight = aspect / (1 - iou + aspect + eps)
    return _reduce(1 - iou + distance + weight * aspect, reduction)


def _iou_and_distance(pred: torch.Tensor, target: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """IoU, and squared centre distance over the squared diagonal of the enclosing box."""
    pred_start, pred_end = pred.split(2, dim=-1)
    target_start, target_end = target.split(2, dim=-1)
    assert (pred_end >= pred_start).all(), "predicted boxes with x1 < x0 or y1 < y0"

    overlap = torch.min(pred_end, target_end) - torch.max(pred_start, target_start)
    # Selecting rather than clamping: boxes that touch or are apart get a zero gradient from the overlap.
    shared = torch.where((overlap > 0).all(dim=-1), _product(overlap), 0.0)
    union = _product(pred_end - pred_start) + _product(target_end - target_start) - shared + eps

    enclosing = torch.max(pred_end, target_end) - torch.min(pred_start, target_start)
    between = (pred_end + pred_start) / 2 - (target_start + target_end) / 2
    return shared / union, between.pow(2).sum(dim=-1) / (enclosing.pow(2).sum(dim=-1) + eps)


def _product(sides: torch.Tensor) -> torch.Tensor:
    # Not Tensor.prod: its gradient looks for zeros, which waits for the GPU.
    w, h = sides.unbind(-1)
    return w * h


def _aspect_angle(boxes: torch.Tensor) -> torch.Tensor:
    x0, y0, x1, y1 = boxes.unbind(-1)
    return torch.atan((x1 - x0) / (y1 - y0))


def _reduce(loss: torch.Tensor, reduction: str) -> torch.Tensor:
    if reduction == "mean":
        # The mean over no boxes would be NaN.
        return loss.mean() if loss.numel() else loss.sum() * 0.0
    return loss.sum() if reduction == "sum" else loss
