"""SIM R50-FPN on the boxes of COCO 2017, 3x: 270,000 iterations at batch 16."""

from ....configs.common.optim.schedules import coco_3x as lr_multiplier
from .sim_r50_fpn_coco_1x import dataloader, model, optimizer, train

train.max_iter = 270000
train.output_dir = "./output/sim_r50_fpn_coco_3x"
