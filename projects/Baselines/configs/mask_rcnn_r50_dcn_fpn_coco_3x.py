"""Mask R-CNN R50-FPN with deformable convolutions in res3 to res5, COCO 2017, 3x."""

from .mask_rcnn_r50_dcn_fpn_coco_1x import model
from .mask_rcnn_r50_fpn_coco_3x import dataloader, lr_multiplier, optimizer, train

train.output_dir = "./output/mask_rcnn_r50_dcn_fpn_coco_3x"
