"""Teacher-Student on CPMask behind FCOS R50-FPN: a base that the paper did not try."""

from ...CPMask.configs.cpmask_fcos_r50_fpn_coco_voc_1x import dataloader, lr_multiplier, model, optimizer, train
from ._teacher_student import add_student_behind_detector as _add_student

_add_student(model, dataloader)
train.output_dir = "./output/ts_cpmask_fcos_r50_fpn_coco_voc_1x"
