"""CPMask on FCOS R101-FPN, masks of all categories: the oracle: Table 4.1."""

from ._cpmask import see_all_masks
from .cpmask_fcos_r101_fpn_coco_voc_2x import dataloader, lr_multiplier, model, optimizer, train

see_all_masks(dataloader)
train.output_dir = "./output/cpmask_fcos_r101_fpn_coco_oracle_2x"
