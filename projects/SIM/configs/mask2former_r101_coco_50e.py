"""Mask2Former R101 on COCO 2017, 50 epochs. Full supervision."""

from .mask2former_r50_coco_50e import dataloader, lr_multiplier, model, optimizer, train

model.backbone.stages.depth = 101
# The weights that the authors convert by hand: torchvision's first version.
train.init_checkpoint = "https://download.pytorch.org/models/resnet101-63fe2227.pth"
train.output_dir = "./output/mask2former_r101_coco_50e"
