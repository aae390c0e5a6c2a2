"""CPMask on FCOS R50-FPN, masks of all categories: the oracle."""

from ._cpmask import see_all_masks
from .cpmask_fcos_r50_fpn_coco_voc_1x import dataloader, lr_multiplier, model, optimizer, train

see_all_masks(dataloader)
train.output_dir = "./output/cpmask_fcos_r50_fpn_coco_oracle_1x"
