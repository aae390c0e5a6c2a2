"""Predictions of a trained Mask R-CNN R50-FPN for COCO test-dev, which has no public ground truth.

Run with --eval-only: `coco_instances_results.json` in the output folder is the file to upload.
"""

from .mask_rcnn_r50_fpn_coco_3x import dataloader, lr_multiplier, model, optimizer, train

dataloader.test.dataset.names = "coco_2017_test-dev"
train.output_dir = "./output/mask_rcnn_r50_fpn_coco_testdev"
