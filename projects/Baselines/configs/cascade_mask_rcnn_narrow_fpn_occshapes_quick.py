"""A narrow Cascade Mask R-CNN on OccShapes: minutes of training on two CPU cores."""

from ....configs.common.models.cascade_mask_rcnn_narrow_fpn import model
from .mask_rcnn_narrow_fpn_occshapes_quick import dataloader, lr_multiplier, optimizer, train

model.roi_heads.num_classes = 10
train.output_dir = "./output/cascade_mask_rcnn_narrow_fpn_occshapes_quick"
