"""SOLOv2 R101-FPN on COCO 2017, 3x: PEP's baseline."""

from .solov2_r50_fpn_coco_3x import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.stages.depth = 101
train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-101.pkl"
train.output_dir = "./output/solov2_r101_fpn_coco_3x"
