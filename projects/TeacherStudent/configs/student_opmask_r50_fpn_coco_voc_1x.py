"""What remains of `ts_opmask_r50_fpn_coco_voc_1x` without its teacher: for weights of `convert_weights.py`."""

from ._teacher_student import keep_student as _keep_student
from .opmask_r50_fpn_coco_voc_1x import dataloader, lr_multiplier, model, optimizer, train

_keep_student(model)
train.output_dir = "./output/student_opmask_r50_fpn_coco_voc_1x"
