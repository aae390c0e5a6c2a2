"""CondInst R101-FPN on COCO 2017 with the semantic head, 3x."""

from ._semantic import add_semantic_head
from .condinst_r101_fpn_coco_3x import dataloader, lr_multiplier, model, optimizer, train

add_semantic_head(model)
train.output_dir = "./output/condinst_r101_fpn_coco_3x_sem"
