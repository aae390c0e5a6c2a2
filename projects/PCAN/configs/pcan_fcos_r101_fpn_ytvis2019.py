"""One-stage PCAN, R101-FPN on YouTube-VIS 2019; from ImageNet, unless `train.init_checkpoint` is a COCO model."""

from ....configs.common.models.resnet import use_resnet101 as _use_resnet101
from .pcan_fcos_r50_fpn_ytvis2019 import dataloader, lr_multiplier, model, optimizer, train

_use_resnet101(model.detector.backbone, train)
train.output_dir = "./output/pcan_fcos_r101_fpn_ytvis2019"
