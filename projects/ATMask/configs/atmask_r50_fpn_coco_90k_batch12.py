"""ATMask R-CNN R50-FPN with the paper's schedule (Tables 1 to 5): 90k x 12, rate 0.02."""

from ._atmask import give_atmask
from .mask_rcnn_r50_fpn_coco_90k_batch12 import dataloader, lr_multiplier, model, optimizer, train

give_atmask(model)
train.output_dir = "./output/atmask_r50_fpn_coco_90k_batch12"
