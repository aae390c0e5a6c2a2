"""BoxInst R50-FPN with the masks of VOC's 20 categories: dice loss where there is a mask, box losses elsewhere."""

from ....configs.common.models.condinst_fpn import model
from ....configs.common.optim.schedules import coco_1x as lr_multiplier
from ._teacher_student import supervise_as_boxinst as _supervise_as_boxinst
from .opmask_r50_fpn_coco_voc_1x import dataloader, optimizer, train

_supervise_as_boxinst(model)
optimizer.lr = 0.01
train.recipe.lr = 0.01
train.clip_grad_norm = None
train.output_dir = "./output/boxinst_r50_fpn_coco_voc_1x"
