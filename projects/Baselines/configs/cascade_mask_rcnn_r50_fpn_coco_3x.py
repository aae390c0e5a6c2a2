"""Cascade Mask R-CNN R50-FPN on COCO 2017, 3x: 270,000 iterations at batch 16."""

from ....configs.common.models.cascade_mask_rcnn_fpn import model
from .mask_rcnn_r50_fpn_coco_3x import dataloader, lr_multiplier, optimizer, train

train.output_dir = "./output/cascade_mask_rcnn_r50_fpn_coco_3x"
