"""BCNet on Cascade R-CNN R50-FPN, 90k x 16 at 600 px."""

from ....configs.common.models.cascade_mask_rcnn_fpn import model
from ._bcnet import give_bcnet
from .mask_rcnn_r50_fpn_coco_1x import dataloader, lr_multiplier, optimizer, train

give_bcnet(model.roi_heads, dataloader)
train.output_dir = "./output/bcnet_cascade_r50_fpn_coco_1x"
