"""SIM R101-FPN on the boxes of COCO 2017, 1x."""

from .sim_r50_fpn_coco_1x import dataloader, lr_multiplier, model, optimizer, train

model.detector.backbone.bottom_up.stages.depth = 101
train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-101.pkl"
train.output_dir = "./output/sim_r101_fpn_coco_1x"
