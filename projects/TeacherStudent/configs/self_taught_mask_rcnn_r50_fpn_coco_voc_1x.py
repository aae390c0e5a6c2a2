"""Control (Fig. 3): class-agnostic Mask R-CNN R50-FPN that learns hidden masks from its own predictions."""

from ._teacher_student import teach_itself as _teach_itself
from .mask_rcnn_r50_fpn_coco_voc_1x import dataloader, lr_multiplier, model, optimizer, train

_teach_itself(model, dataloader)
train.output_dir = "./output/self_taught_mask_rcnn_r50_fpn_coco_voc_1x"
