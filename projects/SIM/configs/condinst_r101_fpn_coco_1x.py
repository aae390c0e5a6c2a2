"""CondInst R101-FPN on COCO 2017, 1x."""

from ....configs.common.models.resnet import use_resnet101
from .condinst_r50_fpn_coco_1x import dataloader, lr_multiplier, model, optimizer, train

use_resnet101(model.detector.backbone, train)
train.output_dir = "./output/condinst_r101_fpn_coco_1x"
