"""CPMask on Cascade R-CNN R101-FPN, masks of the 60 categories that VOC lacks."""

from ....configs.common.models.cascade_mask_rcnn_fpn import model
from ....configs.common.models.resnet import use_resnet101
from ._cpmask import give_cpmask
from .mask_rcnn_r101_fpn_coco_nonvoc_2x import dataloader, lr_multiplier, optimizer, train

give_cpmask(model.roi_heads)
use_resnet101(model.backbone, train)
train.output_dir = "./output/cpmask_cascade_r101_fpn_coco_nonvoc_2x"
