"""BCNet on Faster R-CNN R50-FPN, 90k x 16 at 600 px (Table 3.4)."""

from ._bcnet import give_bcnet
from .mask_rcnn_r50_fpn_coco_1x import dataloader, lr_multiplier, model, optimizer, train

give_bcnet(model.roi_heads, dataloader)
train.output_dir = "./output/bcnet_faster_rcnn_r50_fpn_coco_1x"
