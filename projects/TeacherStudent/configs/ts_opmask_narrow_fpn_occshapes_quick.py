"""Teacher-Student on the narrow OPMask, on OccShapes."""

from ._teacher_student import add_student as _add_student
from .opmask_narrow_fpn_occshapes_quick import dataloader, lr_multiplier, model, optimizer, train

_add_student(model, dataloader)
# Until about iteration 80 the teacher, with a norm and seven convolutions, finds no foreground at all.
model.roi_heads.mask_head.pseudo_start = 120
train.output_dir = "./output/ts_opmask_narrow_fpn_occshapes_quick"
