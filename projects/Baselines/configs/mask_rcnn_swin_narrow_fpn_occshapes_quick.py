"""A narrow Mask R-CNN on a small Swin Transformer, on OccShapes: minutes of training on two CPU cores."""

from ....configs.common.models.swin import swin_narrow as _swin_narrow, use_swin
from .mask_rcnn_narrow_fpn_occshapes_quick import dataloader, lr_multiplier, model, optimizer, train

use_swin(model.backbone, _swin_narrow)
train.output_dir = "./output/mask_rcnn_swin_narrow_fpn_occshapes_quick"
