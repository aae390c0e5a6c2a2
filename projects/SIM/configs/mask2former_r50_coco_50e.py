"""Mask2Former R50 on COCO 2017, 50 epochs: 368,750 iterations at batch 16. Full supervision."""

from ....configs.common.data.coco_lsj import dataloader
from ....configs.common.models.mask2former import model
from ....configs.common.optim.adamw_pretrained import optimizer
from ....configs.common.optim.schedules import coco_50e as lr_multiplier
from ....configs.common.train.default import train

train.recipe.lr = 1e-4
train.amp.enabled = True
train.update(
    max_iter=368750,
    clip_grad_norm=0.01,
    init_checkpoint="detectron2://ImageNetPretrained/torchvision/R-50.pkl",
    output_dir="./output/mask2former_r50_coco_50e",
)
