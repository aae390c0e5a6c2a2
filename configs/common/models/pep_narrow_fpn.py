"""PEP on the backbone of `mask_rcnn_narrow_fpn`, for images of 128 to 320 px, on the grids of `solov2_narrow_fpn`."""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec

from .mask_rcnn_narrow_fpn import model as _mask_rcnn
from .pep_fpn import model
from .solov2_narrow_fpn import model as _solov2

model.update(
    backbone=_mask_rcnn.backbone,
    head_in_features=["p2", "p3", "p4", "p5"],
    min_mask_areas=[4, 8, 16, 32],
    pixel_std=_mask_rcnn.pixel_std,
)
model.head.update(
    input_shape=[L(ShapeSpec)(channels="${....backbone.out_channels}", stride=_s) for _s in (4, 8, 16, 32)],
    grid_numbers=_solov2.assigner.grid_numbers,
    grid_strides=[4, 8, 16, 32],
    conv_dims=[64, 64, 64],
    descriptor_channels=64,
)
model.mask_branch.conv_dim = 64
model.assigner.scale_ranges = _solov2.assigner.scale_ranges
model.excavating.update(window_size=16, conv_dims=[64, 64])
model.purifying.embedding_dims = [64, 64]
