"""Teacher-Student on the narrow class-agnostic Mask R-CNN, on OccShapes."""

from ._teacher_student import add_student as _add_student
from .mask_rcnn_narrow_fpn_occshapes_quick import dataloader, lr_multiplier, model, optimizer, train

_add_student(model, dataloader)
# A third of the training of a mask head: before it the teacher knows nothing, and the student would confirm itself.
model.roi_heads.mask_head.pseudo_start = 60
train.output_dir = "./output/ts_mask_rcnn_narrow_fpn_occshapes_quick"
