"""Baseline of the ablations (Table 3.4): FCOS R50-FPN with Mask R-CNN's head, class-agnostic, 90k x 16 at 600 px."""

from ....configs.common.data.coco import dataloader
from ....configs.common.data.occluded import evaluate_occluded as _evaluate_occluded
from ....configs.common.models.fcos_mask_fpn import model
from ....configs.common.optim.schedules import coco_1x as lr_multiplier
from ....configs.common.optim.sgd import optimizer
from ....configs.common.train.default import train
from ._bcnet import small_images, use_release_fcos

small_images(dataloader)
_evaluate_occluded(dataloader, "coco_2017_val_occ")
use_release_fcos(model.detector)
model.mask_head.num_classes = 1
optimizer.lr = 0.01
train.recipe.lr = 0.01
train.update(
    init_checkpoint="detectron2://ImageNetPretrained/MSRA/R-50.pkl",
    output_dir="./output/bcnet_baseline_fcos_mask_r50_fpn_coco_1x",
)
