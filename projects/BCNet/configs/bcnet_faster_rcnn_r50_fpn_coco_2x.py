"""BCNet on Faster R-CNN R50-FPN, 180k x 16, short edge 640 to 800 px: test-dev, Table 3.8."""

from ....configs.common.data.coco import dataloader
from ._bcnet import give_bcnet
from .bcnet_fcos_r101_fpn_coco_2x import lr_multiplier
from .mask_rcnn_r50_fpn_coco_1x import model, optimizer, train

give_bcnet(model.roi_heads, dataloader)
train.update(max_iter=180000, output_dir="./output/bcnet_faster_rcnn_r50_fpn_coco_2x")
