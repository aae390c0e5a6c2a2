"""Non-maximum suppression, per class."""

import torch
from torchvision.ops import boxes as box_ops
from torchvision.ops import nms

from detectron2._left_out import left_out_function

__all__ = ["batched_nms", "batched_nms_rotated", "nms", "nms_rotated"]


def batched_nms(boxes: torch.Tensor, scores: torch.Tensor, idxs: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Suppress boxes within each class.

    Args:
        boxes: (N, 4) xyxy in any floating dtype; compared in float32, since half precision lacks the range.
        scores: (N,), higher is kept first.
        idxs: (N,) class of each box; boxes of different classes never suppress each other.
        iou_threshold: a box goes when its IoU with a kept one is above it.

    Returns:
        (K,) int64 indices of the boxes kept, by falling score.
    """
    assert boxes.shape[-1] == 4, f"boxes are (N, 4), got {boxes.shape}"
    return box_ops.batched_nms(boxes.float(), scores, idxs, iou_threshold)


nms_rotated = left_out_function("nms_rotated", "rotated boxes")
batched_nms_rotated = left_out_function("batched_nms_rotated", "rotated boxes")
