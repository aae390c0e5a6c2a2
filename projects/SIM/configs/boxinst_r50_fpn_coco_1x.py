"""BoxInst R50-FPN on the boxes of COCO 2017, 1x: 90,000 iterations at batch 16."""

from ._boxinst import supervise_by_boxes
from .condinst_r50_fpn_coco_1x import dataloader, lr_multiplier, model, optimizer, train

supervise_by_boxes(model, dataloader)
train.output_dir = "./output/boxinst_r50_fpn_coco_1x"
