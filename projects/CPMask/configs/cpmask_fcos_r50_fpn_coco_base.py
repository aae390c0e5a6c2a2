"""CPMask on FCOS R50-FPN, base stage of Table 4.2: the 60 categories that VOC lacks, 90k x 16 at 600 px."""

from ._cpmask import base_categories, small_images
from .cpmask_fcos_r50_fpn_coco_voc_1x import dataloader, lr_multiplier, model, optimizer, train

base_categories(dataloader)
small_images(dataloader)
train.output_dir = "./output/cpmask_fcos_r50_fpn_coco_base"
