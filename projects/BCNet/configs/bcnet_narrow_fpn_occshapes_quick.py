"""BCNet on the narrow Faster R-CNN, on OccShapes: minutes of training on two CPU cores."""

from ._bcnet import give_bcnet
from .mask_rcnn_narrow_fpn_occshapes_quick import dataloader, lr_multiplier, model, optimizer, train

give_bcnet(model.roi_heads, dataloader)
train.output_dir = "./output/bcnet_narrow_fpn_occshapes_quick"
