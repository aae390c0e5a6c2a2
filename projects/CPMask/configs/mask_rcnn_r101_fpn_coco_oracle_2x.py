"""Class-specific Mask R-CNN R101-FPN, masks of all categories: the oracle."""

from ._cpmask import see_all_masks
from .mask_rcnn_r101_fpn_coco_voc_2x import dataloader, lr_multiplier, model, optimizer, train

see_all_masks(dataloader)
model.roi_heads.mask_head.num_classes = "${..num_classes}"
train.output_dir = "./output/cpmask_baseline_mask_rcnn_r101_fpn_coco_oracle_2x"
