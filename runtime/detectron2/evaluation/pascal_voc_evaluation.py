"""Not covered: Pascal VOC evaluation."""

from detectron2._left_out import left_out_class

PascalVOCDetectionEvaluator = left_out_class("PascalVOCDetectionEvaluator", "Pascal VOC evaluation")
