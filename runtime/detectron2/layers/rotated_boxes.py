"""Name of upstream's rotated IoU operator; this runtime does not implement it."""

from detectron2._left_out import left_out_function

pairwise_iou_rotated = left_out_function("pairwise_iou_rotated", "rotated boxes")
