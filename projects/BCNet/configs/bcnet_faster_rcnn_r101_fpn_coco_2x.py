"""BCNet on Faster R-CNN R101-FPN, 180k x 16, short edge 640 to 800 px: test-dev, Table 3.8."""

from .bcnet_faster_rcnn_r50_fpn_coco_2x import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.stages.depth = 101
train.update(
    init_checkpoint="detectron2://ImageNetPretrained/MSRA/R-101.pkl",
    output_dir="./output/bcnet_faster_rcnn_r101_fpn_coco_2x",
)
