"""Cascade Mask R-CNN on Swin-B with FPN, COCO 2017, 3x, in mixed precision; from ImageNet-22k weights."""

from ....configs.common.models.cascade_mask_rcnn_swin_b_fpn import model
from ....configs.common.optim.adamw import optimizer
from .mask_rcnn_r50_fpn_coco_3x import dataloader, lr_multiplier, train

optimizer.lr = 1e-4
optimizer.params.overrides = {"relative_position_bias_table": {"weight_decay": 0.0}}
train.update(
    output_dir="./output/cascade_mask_rcnn_swin_b_fpn_coco_3x",
    init_checkpoint="detectron2://ImageNetPretrained/swin/swin_base_patch4_window7_224_22k.pth?matching_heuristics=True",
)
train.amp.enabled = True
train.recipe.lr = 1e-4
