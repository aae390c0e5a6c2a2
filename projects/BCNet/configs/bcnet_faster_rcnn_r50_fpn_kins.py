"""BCNet on Faster R-CNN R50-FPN, amodal, on KINS (Table 3.6)."""

from ._bcnet import give_bcnet
from .mask_rcnn_r50_fpn_kins import dataloader, lr_multiplier, model, optimizer, train

give_bcnet(model.roi_heads, dataloader)
train.output_dir = "./output/bcnet_faster_rcnn_r50_fpn_kins"
