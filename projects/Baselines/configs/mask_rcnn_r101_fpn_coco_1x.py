"""Mask R-CNN R101-FPN on COCO 2017, 1x."""

from .mask_rcnn_r50_fpn_coco_1x import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.stages.depth = 101
train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-101.pkl"
train.output_dir = "./output/mask_rcnn_r101_fpn_coco_1x"
