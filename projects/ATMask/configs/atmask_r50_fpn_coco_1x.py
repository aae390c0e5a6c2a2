"""ATMask R-CNN R50-FPN at 90k x 16, rate 0.02: what detectron2's Mask R-CNN baselines are trained with."""

from ....configs.common.data.coco import dataloader
from .atmask_r50_fpn_coco_90k_batch12 import lr_multiplier, model, optimizer, train

train.recipe.total_batch_size = 16
train.output_dir = "./output/atmask_r50_fpn_coco_1x"
