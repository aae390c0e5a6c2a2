"""Mask R-CNN R50-FPN, base stage of Table 4.2: the 60 categories that VOC lacks, 90k x 16 at 600 px."""

from ._cpmask import base_categories, small_images
from .mask_rcnn_r50_fpn_coco_voc_1x import dataloader, lr_multiplier, model, optimizer, train

base_categories(dataloader)
small_images(dataloader)
model.roi_heads.mask_head.num_classes = "${..num_classes}"
train.output_dir = "./output/cpmask_baseline_mask_rcnn_r50_fpn_coco_base"
