"""Not covered: Cityscapes evaluation."""

from detectron2._left_out import left_out_class

CityscapesEvaluator = left_out_class("CityscapesEvaluator", "Cityscapes evaluation")
CityscapesInstanceEvaluator = left_out_class("CityscapesInstanceEvaluator", "Cityscapes evaluation")
CityscapesSemSegEvaluator = left_out_class("CityscapesSemSegEvaluator", "Cityscapes evaluation")
