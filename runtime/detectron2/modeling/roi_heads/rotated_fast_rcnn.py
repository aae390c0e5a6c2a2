"""Names of the rotated-box heads, which this runtime does not cover."""

from detectron2._left_out import left_out_class, left_out_function

from .roi_heads import ROI_HEADS_REGISTRY

__all__ = [
    "RROIHeads",
    "RotatedFastRCNNOutputLayers",
    "fast_rcnn_inference_rotated",
    "fast_rcnn_inference_single_image_rotated",
]

RROIHeads = left_out_class("RROIHeads", "rotated boxes")
RotatedFastRCNNOutputLayers = left_out_class("RotatedFastRCNNOutputLayers", "rotated boxes")
fast_rcnn_inference_rotated = left_out_function("fast_rcnn_inference_rotated", "rotated boxes")
fast_rcnn_inference_single_image_rotated = left_out_function(
    "fast_rcnn_inference_single_image_rotated", "rotated boxes"
)

ROI_HEADS_REGISTRY.register(RROIHeads)
