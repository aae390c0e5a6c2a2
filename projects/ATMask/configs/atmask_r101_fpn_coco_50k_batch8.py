"""ATMask R-CNN R101-FPN from a trained Faster R-CNN, detection branches frozen (Tables 1, 2): 50k x 8, rate 0.02."""

from ._atmask import give_atmask
from .mask_rcnn_r101_fpn_coco_50k_batch8 import dataloader, lr_multiplier, model, optimizer, train

give_atmask(model)
train.output_dir = "./output/atmask_r101_fpn_coco_50k_batch8"
