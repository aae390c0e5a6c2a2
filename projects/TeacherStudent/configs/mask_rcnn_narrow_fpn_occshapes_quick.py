"""Baseline of the quick rows: narrow class-agnostic Mask R-CNN, masks of five of OccShapes' ten categories."""

from instseg_d2.data import SEEN as _SEEN
from instseg_d2.data import UNSEEN as _UNSEEN

from ....configs.common.data.occshapes import dataloader
from ....configs.common.data.partial import hide_masks as _hide_masks
from ....configs.common.models.mask_rcnn_narrow_fpn import model
from ....configs.common.optim.adamw import optimizer
from ....configs.common.optim.schedules import cosine as lr_multiplier
from ....configs.common.train.quick import train

_hide_masks(dataloader, seen="occshapes_seen", class_names=[*_SEEN, *_UNSEEN])
model.roi_heads.num_classes = 10
model.roi_heads.mask_head.num_classes = 1
train.output_dir = "./output/partial_mask_rcnn_narrow_fpn_occshapes_quick"
