"""CPMask on Faster R-CNN R50-FPN, masks of the 60 categories that VOC lacks."""

from ._cpmask import give_cpmask
from .mask_rcnn_r50_fpn_coco_nonvoc_1x import dataloader, lr_multiplier, model, optimizer, train

give_cpmask(model.roi_heads)
train.output_dir = "./output/cpmask_faster_rcnn_r50_fpn_coco_nonvoc_1x"
