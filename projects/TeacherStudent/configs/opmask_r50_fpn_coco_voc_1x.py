"""OPMask R50-FPN, masks of VOC's 20 categories, 90,000 iterations at batch 16, short edge 640 to 800."""

from ....configs.common.data.coco import dataloader as _coco
from ....configs.common.models.opmask_fpn import model
from ._teacher_student import take_512_keep_150 as _take_512_keep_150
from .mask_rcnn_r50_fpn_coco_voc_1x import dataloader, lr_multiplier, optimizer, train

_take_512_keep_150(model, dataloader)
dataloader.train.mapper.augmentations = _coco.train.mapper.augmentations
train.clip_grad_norm = 10.0
train.output_dir = "./output/opmask_r50_fpn_coco_voc_1x"
