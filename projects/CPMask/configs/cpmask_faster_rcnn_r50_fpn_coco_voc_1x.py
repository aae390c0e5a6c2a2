"""CPMask on Faster R-CNN R50-FPN, masks of VOC's 20 categories."""

from ._cpmask import give_cpmask
from .mask_rcnn_r50_fpn_coco_voc_1x import dataloader, lr_multiplier, model, optimizer, train

give_cpmask(model.roi_heads)
train.output_dir = "./output/cpmask_faster_rcnn_r50_fpn_coco_voc_1x"
