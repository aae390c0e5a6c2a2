"""BoxInst R50-FPN with the masks of VOC's 20 categories: dice loss where there is a mask, box losses elsewhere."""

from ....configs.common.models.condinst_fpn import model
from ._teacher_student import supervise_as_boxinst as _supervise_as_boxinst
from .opmask_r50_fpn_coco_voc_1x import dataloader, lr_multiplier, optimizer, train

_supervise_as_boxinst(model)
model.detector.max_detections_per_image = 150
optimizer.lr = 0.01
train.recipe.lr = 0.01
train.clip_grad_norm = None
train.output_dir = "./output/boxinst_r50_fpn_coco_voc_1x"
