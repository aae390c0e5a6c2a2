"""The R50 recipe with the rate that the linear rule gives for batch 12: 0.015."""

from .atmask_r50_fpn_coco_90k_batch12 import dataloader, lr_multiplier, model, optimizer, train

optimizer.lr = 0.015
train.recipe.lr = 0.015
train.output_dir = "./output/atmask_r50_fpn_coco_90k_batch12_linear"
