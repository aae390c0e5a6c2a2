"""What remains of `ts_boxinst_r50_fpn_coco_voc_1x` without its teacher: for weights of `convert_weights.py`."""

from ._teacher_student import keep_condinst_student as _keep_condinst_student
from .boxinst_r50_fpn_coco_voc_1x import dataloader, lr_multiplier, model, optimizer, train

_keep_condinst_student(model)
train.output_dir = "./output/student_boxinst_r50_fpn_coco_voc_1x"
