"""BCNet on Faster R-CNN R50-FPN, amodal, on COCOA (Table 3.5)."""

from ._bcnet import give_bcnet
from .mask_rcnn_r50_fpn_cocoa import dataloader, lr_multiplier, model, optimizer, train

give_bcnet(model.roi_heads, dataloader)
train.output_dir = "./output/bcnet_faster_rcnn_r50_fpn_cocoa"
