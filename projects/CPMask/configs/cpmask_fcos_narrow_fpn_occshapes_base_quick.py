"""Base stage of the quick few-shot rows: CPMask on the narrow FCOS, five of OccShapes' ten categories."""

from ._cpmask import base_categories as _base_categories
from .cpmask_fcos_narrow_fpn_occshapes_quick import dataloader, lr_multiplier, model, optimizer, train

_base_categories(dataloader, base="occshapes_seen", halves={"seen": "occshapes_seen", "unseen": "occshapes_unseen"})
train.update(max_iter=400, output_dir="./output/cpmask_fcos_narrow_fpn_occshapes_base_quick")
