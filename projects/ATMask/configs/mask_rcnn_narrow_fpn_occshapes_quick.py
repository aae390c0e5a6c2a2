"""Baseline of the quick rows: the narrow Mask R-CNN on OccShapes, evaluated by occlusion."""

from ....configs.common.data.occluded import evaluate_occluded as _evaluate_occluded
from ....configs.common.data.occshapes import dataloader
from ....configs.common.models.mask_rcnn_narrow_fpn import model
from ....configs.common.optim.adamw import optimizer
from ....configs.common.optim.schedules import cosine as lr_multiplier
from ....configs.common.train.quick import train

_evaluate_occluded(dataloader, "occshapes_val_occ")
model.roi_heads.num_classes = 10
train.output_dir = "./output/atmask_baseline_mask_rcnn_narrow_fpn_occshapes_quick"
