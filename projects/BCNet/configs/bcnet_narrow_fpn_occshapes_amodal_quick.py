"""BCNet on the narrow Faster R-CNN learns the whole objects of OccShapes."""

from ._bcnet import give_bcnet
from .mask_rcnn_narrow_fpn_occshapes_amodal_quick import dataloader, lr_multiplier, model, optimizer, train

give_bcnet(model.roi_heads, dataloader)
train.output_dir = "./output/bcnet_narrow_fpn_occshapes_amodal_quick"
