"""BoxInst R101-FPN on the boxes of Pascal VOC 2012: 20,000 iterations at batch 16."""

from ....configs.common.models.resnet import use_resnet101
from .boxinst_r50_fpn_voc import dataloader, lr_multiplier, model, optimizer, train

use_resnet101(model.detector.backbone, train)
train.output_dir = "./output/boxinst_r101_fpn_voc"
