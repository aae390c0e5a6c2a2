"""CPMask on Cascade R-CNN R50-FPN, masks of the 60 categories that VOC lacks."""

from ....configs.common.models.cascade_mask_rcnn_fpn import model
from ._cpmask import give_cpmask
from .mask_rcnn_r50_fpn_coco_nonvoc_1x import dataloader, lr_multiplier, optimizer, train

give_cpmask(model.roi_heads)
train.output_dir = "./output/cpmask_cascade_r50_fpn_coco_nonvoc_1x"
