"""Not covered: panoptic evaluation."""

from detectron2._left_out import left_out_class

COCOPanopticEvaluator = left_out_class("COCOPanopticEvaluator", "panoptic evaluation")
