"""BCNet on the narrow FCOS, on OccShapes: minutes of training on two CPU cores."""

from ....configs.common.models.fcos_mask_narrow_fpn import model
from ._bcnet import give_bcnet
from .mask_rcnn_narrow_fpn_occshapes_quick import dataloader, lr_multiplier, optimizer, train

give_bcnet(model, dataloader)
model.detector.num_classes = 10
train.output_dir = "./output/bcnet_fcos_narrow_fpn_occshapes_quick"
