"""Names of the keypoint heads, which this runtime does not cover; the registry is real."""

from detectron2._left_out import left_out_class, left_out_function
from detectron2.utils.registry import Registry

__all__ = [
    "ROI_KEYPOINT_HEAD_REGISTRY",
    "BaseKeypointRCNNHead",
    "KRCNNConvDeconvUpsampleHead",
    "build_keypoint_head",
    "keypoint_rcnn_inference",
    "keypoint_rcnn_loss",
]

ROI_KEYPOINT_HEAD_REGISTRY = Registry("ROI_KEYPOINT_HEAD")
ROI_KEYPOINT_HEAD_REGISTRY.__doc__ = "Keypoint heads by name."

BaseKeypointRCNNHead = left_out_class("BaseKeypointRCNNHead", "keypoints")
KRCNNConvDeconvUpsampleHead = left_out_class("KRCNNConvDeconvUpsampleHead", "keypoints")
build_keypoint_head = left_out_function("build_keypoint_head", "keypoints")
keypoint_rcnn_loss = left_out_function("keypoint_rcnn_loss", "keypoints")
keypoint_rcnn_inference = left_out_function("keypoint_rcnn_inference", "keypoints")

ROI_KEYPOINT_HEAD_REGISTRY.register(KRCNNConvDeconvUpsampleHead)
