"""Names of upstream's rotated RoIAlign; this runtime does not implement it."""

from detectron2._left_out import left_out_class, left_out_function

ROIAlignRotated = left_out_class("ROIAlignRotated", "rotated boxes")
roi_align_rotated = left_out_function("roi_align_rotated", "rotated boxes")
