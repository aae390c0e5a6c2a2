"""SOLOv2 on the backbone of `mask_rcnn_narrow_fpn`, for images of 128 to 320 px.

Levels P2 to P5 as they are, with fewer cells and smaller objects: images are smaller by a factor of four or more.
"""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec

from .mask_rcnn_narrow_fpn import model as _mask_rcnn
from .solov2_fpn import model

_strides = (4, 8, 16, 32)

model.update(
    backbone=_mask_rcnn.backbone,
    head_in_features=["p2", "p3", "p4", "p5"],
    masks_per_image=128,
    pixel_std=_mask_rcnn.pixel_std,
)
model.head.update(
    input_shape=[L(ShapeSpec)(channels="${....backbone.out_channels}", stride=_stride) for _stride in _strides],
    strides=_strides,
    conv_dims=[64, 64, 64],
)
model.mask_branch.update(conv_dim=64, out_channels=64)
model.assigner.update(grid_numbers=[24, 16, 12, 8], scale_ranges=[(1, 24), (16, 40), (28, 64), (48, 256)])
