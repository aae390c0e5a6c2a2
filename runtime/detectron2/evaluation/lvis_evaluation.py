"""Not covered: LVIS evaluation."""

from detectron2._left_out import left_out_class

LVISEvaluator = left_out_class("LVISEvaluator", "LVIS evaluation")
