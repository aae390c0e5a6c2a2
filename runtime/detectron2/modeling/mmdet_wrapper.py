"""Names of the wrappers of mmdetection models, which the runtime does not cover."""

from detectron2._left_out import left_out_class

MMDetBackbone = left_out_class("MMDetBackbone", "wrappers of mmdetection")
MMDetDetector = left_out_class("MMDetDetector", "wrappers of mmdetection")
