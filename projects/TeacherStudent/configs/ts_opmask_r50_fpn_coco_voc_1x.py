"""Teacher-Student on OPMask R50-FPN (Table 1): both heads read the features with the prior."""

from ._teacher_student import add_student as _add_student
from .opmask_r50_fpn_coco_voc_1x import dataloader, lr_multiplier, model, optimizer, train

_add_student(model, dataloader)
train.output_dir = "./output/ts_opmask_r50_fpn_coco_voc_1x"
