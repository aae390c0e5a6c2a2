"""Baseline of Table 3.4: Mask R-CNN R50-FPN, class-agnostic masks, 90k x 16 at 600 px."""

from ....configs.common.data.coco import dataloader
from ....configs.common.data.occluded import evaluate_occluded as _evaluate_occluded
from ....configs.common.models.mask_rcnn_fpn import model
from ....configs.common.optim.schedules import coco_1x as lr_multiplier
from ....configs.common.optim.sgd import optimizer
from ....configs.common.train.default import train
from ._bcnet import small_images

small_images(dataloader)
_evaluate_occluded(dataloader, "coco_2017_val_occ")
model.roi_heads.mask_head.num_classes = 1
train.update(
    init_checkpoint="detectron2://ImageNetPretrained/MSRA/R-50.pkl",
    output_dir="./output/bcnet_baseline_mask_rcnn_r50_fpn_coco_1x",
)
