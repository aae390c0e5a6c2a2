"""Baseline of Tables 1 to 5: Mask R-CNN R50-FPN, 90k x 12, rate 0.02 as the paper prints it."""

from ....configs.common.data.coco import dataloader
from ....configs.common.models.mask_rcnn_fpn import model
from ....configs.common.optim.schedules import coco_1x as lr_multiplier
from ....configs.common.optim.sgd import optimizer
from ....configs.common.train.default import train

dataloader.train.total_batch_size = 12
train.recipe.total_batch_size = 12
train.update(
    init_checkpoint="detectron2://ImageNetPretrained/MSRA/R-50.pkl",
    output_dir="./output/atmask_baseline_mask_rcnn_r50_fpn_coco_90k_batch12",
)
