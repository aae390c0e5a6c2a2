"""SIM on Mask2Former R101, on the boxes of COCO 2017, 50 epochs."""

from ._sim_mask2former import teach_by_boxes
from .mask2former_r101_coco_50e import dataloader, lr_multiplier, model, optimizer, train

teach_by_boxes(model, dataloader)
train.output_dir = "./output/sim_mask2former_r101_coco_50e"
