"""PEP R101-FPN on COCO 2017, 36 epochs: the paper's model."""

from .pep_r50_fpn_coco_3x import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.stages.depth = 101
train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-101.pkl"
train.output_dir = "./output/pep_r101_fpn_coco_3x"
