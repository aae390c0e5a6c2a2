"""SIM R50-FPN as its released code has it, on the boxes of COCO 2017, 1x."""

from ._sim import as_released
from .sim_r50_fpn_coco_1x import dataloader, lr_multiplier, model, optimizer, train

as_released(model)
train.output_dir = "./output/sim_released_r50_fpn_coco_1x"
