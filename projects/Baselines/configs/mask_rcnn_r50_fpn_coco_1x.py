"""Mask R-CNN R50-FPN on COCO 2017, 1x: 90,000 iterations at batch 16."""

from ....configs.common.data.coco import dataloader
from ....configs.common.models.mask_rcnn_fpn import model
from ....configs.common.optim.schedules import coco_1x as lr_multiplier
from ....configs.common.optim.sgd import optimizer
from ....configs.common.train.default import train

train.update(
    output_dir="./output/mask_rcnn_r50_fpn_coco_1x",
    init_checkpoint="detectron2://ImageNetPretrained/MSRA/R-50.pkl",
)
