"""Teacher-Student on CPMask behind the narrow FCOS, on OccShapes."""

from ...CPMask.configs.cpmask_fcos_narrow_fpn_occshapes_quick import dataloader, lr_multiplier, model, optimizer, train
from ._teacher_student import add_student_behind_detector as _add_student

_add_student(model, dataloader)
# See ts_mask_rcnn_narrow_fpn_occshapes_quick.py.
model.mask_head.pseudo_start = 60
train.output_dir = "./output/ts_cpmask_fcos_narrow_fpn_occshapes_quick"
