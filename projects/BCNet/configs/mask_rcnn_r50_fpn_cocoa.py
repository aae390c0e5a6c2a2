"""Amodal baseline of Table 3.5: Mask R-CNN R50-FPN on COCOA, without classes, 10k x 8 from a COCO model's weights.

The thesis names no schedule for COCOA; this one is ours.
"""

from .mask_rcnn_r50_fpn_kins import dataloader, lr_multiplier, model, optimizer, train

dataloader.train.dataset.names = "cocoa_train"
dataloader.train.mapper.augmentations[0].update(short_edge_length=(640, 672, 704, 736, 768, 800), max_size=1333)
dataloader.test.dataset.names = "cocoa_val"
dataloader.test.mapper.augmentations[0].max_size = 1333
dataloader.evaluator.protocol = "cocoa"
model.roi_heads.num_classes = 1
train.update(max_iter=10000, output_dir="./output/mask_rcnn_r50_fpn_cocoa")
