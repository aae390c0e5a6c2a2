"""Not covered: evaluation of rotated boxes."""

from detectron2._left_out import left_out_class

RotatedCOCOEvaluator = left_out_class("RotatedCOCOEvaluator", "evaluation of rotated boxes")
