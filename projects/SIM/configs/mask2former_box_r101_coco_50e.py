"""Mask2Former R101 on the boxes of COCO 2017, 50 epochs."""

from ._mask2former_box import supervise_by_boxes
from .mask2former_r101_coco_50e import dataloader, lr_multiplier, model, optimizer, train

supervise_by_boxes(model, dataloader)
train.output_dir = "./output/mask2former_box_r101_coco_50e"
