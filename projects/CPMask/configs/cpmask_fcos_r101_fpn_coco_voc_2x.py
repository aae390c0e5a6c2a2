"""CPMask on FCOS R101-FPN, masks of VOC's 20 categories, 180k x 16, short edge 640 to 800: Table 4.1."""

from ....configs.common.models.resnet import use_resnet101
from .cpmask_fcos_r50_fpn_coco_voc_1x import dataloader, lr_multiplier, model, optimizer, train

use_resnet101(model.detector.backbone, train)
dataloader.train.mapper.augmentations[0].short_edge_length = (640, 672, 704, 736, 768, 800)
lr_multiplier.drop_at = [140000 / 180000, 170000 / 180000]
train.update(max_iter=180000, output_dir="./output/cpmask_fcos_r101_fpn_coco_voc_2x")
