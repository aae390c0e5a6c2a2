"""CPMask on FCOS R101-FPN, masks of the 60 categories that VOC lacks: Table 4.1."""

from ._cpmask import see_masks_of
from .cpmask_fcos_r101_fpn_coco_voc_2x import dataloader, lr_multiplier, model, optimizer, train

see_masks_of(dataloader, "nonvoc")
train.output_dir = "./output/cpmask_fcos_r101_fpn_coco_nonvoc_2x"
