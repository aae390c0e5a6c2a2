"""Class-agnostic Mask R-CNN R50-FPN, masks of the 60 categories that VOC lacks."""

from ._cpmask import see_masks_of
from .mask_rcnn_r50_fpn_coco_voc_1x import dataloader, lr_multiplier, model, optimizer, train

see_masks_of(dataloader, "nonvoc")
train.output_dir = "./output/cpmask_baseline_mask_rcnn_r50_fpn_coco_nonvoc_1x"
