"""FCOS with masks on the backbone of `mask_rcnn_narrow_fpn`, for images of 128 to 320 px.

Levels P2 to P5 in place of P3 to P7: images that are smaller by a factor of four or more have smaller objects.
"""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec

from .fcos_mask_fpn import model
from .mask_rcnn_narrow_fpn import model as _mask_rcnn

_levels = ["p2", "p3", "p4", "p5"]

model.detector.update(
    backbone=_mask_rcnn.backbone,
    head_in_features=_levels,
    # Scores are low after a short training.
    test_score_thresh=0.1,
    pixel_std=_mask_rcnn.pixel_std,
)
model.detector.head.update(
    input_shape=[L(ShapeSpec)(channels="${....backbone.out_channels}") for _ in _levels],
    conv_dims=[64, 64, 64],
)
model.mask_in_features = _levels
model.mask_pooler.scales = (1 / 4, 1 / 8, 1 / 16, 1 / 32)
model.mask_head.conv_dims = [64, 64, 64, 64, 64]
model.regions_per_image = 16
