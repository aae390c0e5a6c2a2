"""Names of upstream's keypoint structures; this runtime does not implement them."""

from detectron2._left_out import left_out_class, left_out_function

Keypoints = left_out_class("Keypoints", "keypoints")
heatmaps_to_keypoints = left_out_function("heatmaps_to_keypoints", "keypoints")
