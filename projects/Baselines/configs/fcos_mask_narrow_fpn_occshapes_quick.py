"""A narrow FCOS with masks on OccShapes: minutes of training on two CPU cores."""

from ....configs.common.models.fcos_mask_narrow_fpn import model
from .mask_rcnn_narrow_fpn_occshapes_quick import dataloader, lr_multiplier, optimizer, train

model.detector.num_classes = 10
train.output_dir = "./output/fcos_mask_narrow_fpn_occshapes_quick"
