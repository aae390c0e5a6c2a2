"""Mask R-CNN R50-FPN with deformable convolutions in res3 to res5, COCO 2017, 1x."""

from instseg_d2.modeling.backbones.resnet import resnet_dcn_stages

from .mask_rcnn_r50_fpn_coco_1x import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.stages._target_ = resnet_dcn_stages
train.output_dir = "./output/mask_rcnn_r50_dcn_fpn_coco_1x"
