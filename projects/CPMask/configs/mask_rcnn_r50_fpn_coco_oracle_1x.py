"""Class-specific Mask R-CNN R50-FPN, masks of all categories: the oracle."""

from ._cpmask import see_all_masks
from .mask_rcnn_r50_fpn_coco_voc_1x import dataloader, lr_multiplier, model, optimizer, train

see_all_masks(dataloader)
model.roi_heads.mask_head.num_classes = "${..num_classes}"
train.output_dir = "./output/cpmask_baseline_mask_rcnn_r50_fpn_coco_oracle_1x"
