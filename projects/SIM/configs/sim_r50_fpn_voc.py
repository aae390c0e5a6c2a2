"""SIM R50-FPN on the boxes of Pascal VOC 2012: 20,000 iterations at batch 16."""

from ._sim import teach_by_boxes
from .condinst_r50_fpn_voc import dataloader, lr_multiplier, model, optimizer, train

teach_by_boxes(model, dataloader)
# The same shares of the training as in 1x on COCO, for the warm-up and for the memory of the teacher.
model.supervision.warmup_iters = 2000
model.teacher_momentum = 0.99955
train.output_dir = "./output/sim_r50_fpn_voc"
