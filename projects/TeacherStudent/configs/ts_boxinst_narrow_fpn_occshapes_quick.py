"""Teacher-Student on the narrow BoxInst, on OccShapes."""

from ._teacher_student import add_condinst_student as _add_condinst_student
from .boxinst_narrow_fpn_occshapes_quick import dataloader, lr_multiplier, model, optimizer, train

_add_condinst_student(model)
model.pseudo_start = 60
train.output_dir = "./output/ts_boxinst_narrow_fpn_occshapes_quick"
