"""BoxInst R50-FPN on the boxes of Pascal VOC 2012: 20,000 iterations at batch 16."""

from ._boxinst import supervise_by_boxes
from .condinst_r50_fpn_voc import dataloader, lr_multiplier, model, optimizer, train

supervise_by_boxes(model, dataloader)
# The same share of the training as in 1x on COCO.
model.supervision.warmup_iters = 2000
train.output_dir = "./output/boxinst_r50_fpn_voc"
