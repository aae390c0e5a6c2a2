"""The narrow FCOS with class-agnostic masks, masks of all categories: the oracle of the quick rows."""

from ._cpmask import see_all_masks
from .fcos_mask_narrow_fpn_occshapes_quick import dataloader, lr_multiplier, model, optimizer, train

see_all_masks(dataloader, {"seen": "occshapes_seen", "unseen": "occshapes_unseen"})
train.output_dir = "./output/partial_fcos_mask_oracle_narrow_fpn_occshapes_quick"
