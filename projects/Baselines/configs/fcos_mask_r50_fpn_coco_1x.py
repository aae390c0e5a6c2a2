"""FCOS with the head of Mask R-CNN, R50-FPN on COCO 2017, 1x: 90,000 iterations at batch 16."""

from ....configs.common.models.fcos_mask_fpn import model
from .mask_rcnn_r50_fpn_coco_1x import dataloader, lr_multiplier, optimizer, train

optimizer.lr = 0.01
train.recipe.lr = 0.01
train.output_dir = "./output/fcos_mask_r50_fpn_coco_1x"
