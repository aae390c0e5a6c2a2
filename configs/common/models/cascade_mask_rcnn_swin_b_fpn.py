"""Cascade Mask R-CNN on Swin-B with FPN, for weights that were trained on ImageNet in RGB."""

from .cascade_mask_rcnn_fpn import model
from .swin import swin_b as _swin_b, use_swin

use_swin(model.backbone, _swin_b)
model.update(
    pixel_mean=[123.675, 116.280, 103.530],
    pixel_std=[58.395, 57.120, 57.375],
    input_format="RGB",
)
