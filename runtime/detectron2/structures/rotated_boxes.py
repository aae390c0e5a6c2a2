"""Names of upstream's rotated-box structures; this runtime does not implement them."""

from detectron2._left_out import left_out_class, left_out_function

RotatedBoxes = left_out_class("RotatedBoxes", "rotated boxes")
pairwise_iou = left_out_function("pairwise_iou_rotated", "rotated boxes")
