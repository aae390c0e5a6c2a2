"""Mask2Former of about 2 million parameters for images of 128 to 320 px: trains from scratch on two CPU cores."""

from .mask2former import model
from .mask_rcnn_narrow_fpn import model as _mask_rcnn

model.backbone = _mask_rcnn.backbone.bottom_up
model.pixel_decoder.update(
    in_channels=[_stage.out_channels for _stage in _mask_rcnn.backbone.bottom_up.stages],
    channels=64,
    mask_channels=64,
    num_layers=2,
    feedforward=128,
)
model.decoder.update(num_queries=30, num_heads=4, feedforward=128, num_layers=3)
model.supervision.num_points = 1024
