"""Baseline of the quick rows: narrow FCOS, class-agnostic masks of five of OccShapes' ten categories."""

from instseg_d2.data import SEEN as _SEEN
from instseg_d2.data import UNSEEN as _UNSEEN

from ....configs.common.data.occshapes import dataloader
from ....configs.common.data.partial import hide_masks
from ....configs.common.models.fcos_mask_narrow_fpn import model
from ....configs.common.optim.adamw import optimizer
from ....configs.common.optim.schedules import cosine as lr_multiplier
from ....configs.common.train.quick import train

hide_masks(dataloader, seen="occshapes_seen", class_names=[*_SEEN, *_UNSEEN])
dataloader.further_evaluations[0].category_subsets = {"seen": "occshapes_seen", "unseen": "occshapes_unseen"}
model.detector.num_classes = 10
model.mask_head.num_classes = 1
train.output_dir = "./output/partial_fcos_mask_narrow_fpn_occshapes_quick"
