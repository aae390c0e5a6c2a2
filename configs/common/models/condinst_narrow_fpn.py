"""CondInst on the backbone of `mask_rcnn_narrow_fpn`, for images of 128 to 320 px.

Levels P2 to P5 in place of P3 to P7, and masks of stride 2: images that are smaller by a factor of four or more have
smaller objects.
"""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec

from .condinst_fpn import model
from .mask_rcnn_narrow_fpn import model as _mask_rcnn

_levels = ["p2", "p3", "p4", "p5"]

model.detector.update(backbone=_mask_rcnn.backbone, head_in_features=_levels, pixel_std=_mask_rcnn.pixel_std)
model.detector.head.update(
    input_shape=[L(ShapeSpec)(channels="${....backbone.out_channels}") for _ in _levels],
    conv_dims=[64, 64, 64],
)
model.mask_branch.update(in_features=_levels[:3], channels=32, num_convs=2)
model.mask_head.level_sizes = [32, 64, 128, 256]
model.max_positives = 128
