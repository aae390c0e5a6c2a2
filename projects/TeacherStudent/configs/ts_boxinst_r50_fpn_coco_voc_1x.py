"""Teacher-Student on BoxInst R50-FPN (Table 1)."""

from ._teacher_student import add_condinst_student as _add_condinst_student
from .boxinst_r50_fpn_coco_voc_1x import dataloader, lr_multiplier, model, optimizer, train

_add_condinst_student(model)
train.output_dir = "./output/ts_boxinst_r50_fpn_coco_voc_1x"
