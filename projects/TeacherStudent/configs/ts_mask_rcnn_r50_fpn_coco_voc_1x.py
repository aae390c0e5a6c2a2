"""Teacher-Student on class-agnostic Mask R-CNN R50-FPN (Table 1)."""

from ._teacher_student import add_student as _add_student
from .mask_rcnn_r50_fpn_coco_voc_1x import dataloader, lr_multiplier, model, optimizer, train

_add_student(model, dataloader)
train.output_dir = "./output/ts_mask_rcnn_r50_fpn_coco_voc_1x"
