"""A narrow OPMask on OccShapes, masks of five of its ten categories."""

from ....configs.common.models.opmask_narrow_fpn import model
from .mask_rcnn_narrow_fpn_occshapes_quick import dataloader, lr_multiplier, optimizer, train

model.roi_heads.num_classes = 10
train.output_dir = "./output/opmask_narrow_fpn_occshapes_quick"
