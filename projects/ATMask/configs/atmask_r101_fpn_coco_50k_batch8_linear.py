"""The R101 recipe with the rate that the linear rule gives for batch 8: 0.01."""

from .atmask_r101_fpn_coco_50k_batch8 import dataloader, lr_multiplier, model, optimizer, train

optimizer.lr = 0.01
train.recipe.lr = 0.01
train.output_dir = "./output/atmask_r101_fpn_coco_50k_batch8_linear"
