"""SIM R50-FPN on the boxes of COCO 2017, 1x: 90,000 iterations at batch 16."""

from ._sim import teach_by_boxes
from .condinst_r50_fpn_coco_1x import dataloader, lr_multiplier, model, optimizer, train

teach_by_boxes(model, dataloader)
train.output_dir = "./output/sim_r50_fpn_coco_1x"
