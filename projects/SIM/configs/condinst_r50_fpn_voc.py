"""CondInst R50-FPN on Pascal VOC 2012 with the masks of SBD: 20,000 iterations at batch 16."""

from ....configs.common.data.voc import dataloader
from ....configs.common.optim.schedules import voc_20k as lr_multiplier
from .condinst_r50_fpn_coco_1x import model, optimizer, train

model.detector.num_classes = 20
train.update(max_iter=20000, output_dir="./output/condinst_r50_fpn_voc")
