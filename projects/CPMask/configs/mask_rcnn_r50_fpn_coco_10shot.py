"""Mask R-CNN-ft of Table 4.2: ten samples of each of VOC's categories, from the weights of the base stage."""

from ._cpmask import few_shots, fine_tune, ignore_regions
from .mask_rcnn_r50_fpn_coco_base import dataloader, lr_multiplier, model, optimizer, train

few_shots(dataloader, shots=10)
ignore_regions(model)
fine_tune(optimizer, lr_multiplier, train, start=train.output_dir)
train.output_dir = "./output/cpmask_baseline_mask_rcnn_r50_fpn_coco_10shot"
