"""Mask R-CNN on ResNet-50 FPN."""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import FPN
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.modeling.roi_heads import MaskRCNNConvUpsampleHead, StandardROIHeads

from ._parts import box_head, box_predictor, fpn_pooler, matcher, pixels, resnet50, rpn

model = L(GeneralizedRCNN)(
    backbone=L(FPN)(
        bottom_up=resnet50(["res2", "res3", "res4", "res5"]),
        in_features="${.bottom_up.out_features}",
        out_channels=256,
        top_block=L(LastLevelMaxPool)(),
    ),
    proposal_generator=rpn(
        in_features=["p2", "p3", "p4", "p5", "p6"],
        in_channels=256,
        num_anchors=3,
        sizes=[[32], [64], [128], [256], [512]],
        strides=[4, 8, 16, 32, 64],
        pre_nms_topk=(2000, 1000),
        post_nms_topk=(1000, 1000),
    ),
    roi_heads=L(StandardROIHeads)(
        num_classes=80,
        batch_size_per_image=512,
        positive_fraction=0.25,
        proposal_matcher=matcher([0.5], [0, 1], low_quality=False),
        box_in_features=["p2", "p3", "p4", "p5"],
        box_pooler=fpn_pooler(7),
        box_head=box_head(),
        box_predictor=box_predictor(ShapeSpec(channels=1024), "${..num_classes}"),
        mask_in_features=["p2", "p3", "p4", "p5"],
        mask_pooler=fpn_pooler(14),
        mask_head=L(MaskRCNNConvUpsampleHead)(
            input_shape=ShapeSpec(channels=256, width=14, height=14),
            num_classes="${..num_classes}",
            # four convolutions and the upsampling one
            conv_dims=[256] * 5,
        ),
    ),
    **pixels(),
)
