"""CPMask on Faster R-CNN R101-FPN, masks of the 60 categories that VOC lacks."""

from ._cpmask import give_cpmask
from .mask_rcnn_r101_fpn_coco_nonvoc_2x import dataloader, lr_multiplier, model, optimizer, train

give_cpmask(model.roi_heads)
train.output_dir = "./output/cpmask_faster_rcnn_r101_fpn_coco_nonvoc_2x"
