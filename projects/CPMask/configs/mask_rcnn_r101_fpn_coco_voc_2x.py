"""Class-agnostic Mask R-CNN R101-FPN, masks of VOC's 20 categories, with the schedule of CPMask's R101."""

from ....configs.common.models.resnet import use_resnet101
from .mask_rcnn_r50_fpn_coco_voc_1x import dataloader, lr_multiplier, model, optimizer, train

use_resnet101(model.backbone, train)
dataloader.train.mapper.augmentations[0].short_edge_length = (640, 672, 704, 736, 768, 800)
lr_multiplier.drop_at = [140000 / 180000, 170000 / 180000]
train.update(max_iter=180000, output_dir="./output/cpmask_baseline_mask_rcnn_r101_fpn_coco_voc_2x")
