"""A narrow Mask R-CNN on OccShapes: about four minutes of training on two CPU cores."""

from ....configs.common.data.occshapes import dataloader
from ....configs.common.models.mask_rcnn_narrow_fpn import model
from ....configs.common.optim.adamw import optimizer
from ....configs.common.optim.schedules import cosine as lr_multiplier
from ....configs.common.train.quick import train

model.roi_heads.num_classes = 10
train.output_dir = "./output/mask_rcnn_narrow_fpn_occshapes_quick"
