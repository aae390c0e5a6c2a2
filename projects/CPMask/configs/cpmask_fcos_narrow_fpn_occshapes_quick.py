"""CPMask on the narrow FCOS, masks of five of OccShapes' ten categories: minutes of training on two CPU cores."""

from ._cpmask import give_cpmask
from .fcos_mask_narrow_fpn_occshapes_quick import dataloader, lr_multiplier, model, optimizer, train

give_cpmask(model)
train.output_dir = "./output/cpmask_fcos_narrow_fpn_occshapes_quick"
