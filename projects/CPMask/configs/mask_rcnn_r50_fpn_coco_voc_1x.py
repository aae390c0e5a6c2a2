"""Class-agnostic Mask R-CNN R50-FPN, masks of VOC's 20 categories, 90k x 16, short edge 800."""

from ....configs.common.data.coco import dataloader
from ....configs.common.models.mask_rcnn_fpn import model
from ....configs.common.optim.schedules import coco_1x as lr_multiplier
from ....configs.common.optim.sgd import optimizer
from ....configs.common.train.default import train
from ._cpmask import see_masks_of

see_masks_of(dataloader, "voc")
model.roi_heads.mask_head.num_classes = 1
dataloader.train.mapper.augmentations[0].short_edge_length = (800,)
train.update(
    init_checkpoint="detectron2://ImageNetPretrained/MSRA/R-50.pkl",
    output_dir="./output/cpmask_baseline_mask_rcnn_r50_fpn_coco_voc_1x",
)
