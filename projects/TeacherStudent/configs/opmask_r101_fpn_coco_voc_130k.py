"""OPMask R101-FPN with its authors' schedule: 130,000 iterations at batch 16, one drop at 120,000."""

from ....configs.common.models.resnet import use_resnet101 as _use_resnet101
from .opmask_r50_fpn_coco_voc_1x import dataloader, lr_multiplier, model, optimizer, train

_use_resnet101(model.backbone, train)
lr_multiplier.drop_at = [120000 / 130000]
train.max_iter = 130000
train.output_dir = "./output/opmask_r101_fpn_coco_voc_130k"
