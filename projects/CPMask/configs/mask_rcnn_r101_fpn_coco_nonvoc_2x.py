"""Class-agnostic Mask R-CNN R101-FPN, masks of the 60 categories that VOC lacks."""

from ._cpmask import see_masks_of
from .mask_rcnn_r101_fpn_coco_voc_2x import dataloader, lr_multiplier, model, optimizer, train

see_masks_of(dataloader, "nonvoc")
train.output_dir = "./output/cpmask_baseline_mask_rcnn_r101_fpn_coco_nonvoc_2x"
