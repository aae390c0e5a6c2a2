"""Mask R-CNN whose heads share ResNet-50's last stage."""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import BottleneckBlock, ResNet
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import MaskRCNNConvUpsampleHead, Res5ROIHeads

from ._parts import box_predictor, matcher, pixels, resnet50, rpn

model = L(GeneralizedRCNN)(
    backbone=resnet50(["res4"]),
    proposal_generator=rpn(
        in_features=["res4"],
        in_channels=1024,
        num_anchors=15,
        sizes=[[32, 64, 128, 256, 512]],
        strides=[16],
        pre_nms_topk=(12000, 6000),
        post_nms_topk=(2000, 1000),
    ),
    roi_heads=L(Res5ROIHeads)(
        num_classes=80,
        batch_size_per_image=512,
        positive_fraction=0.25,
        proposal_matcher=matcher([0.5], [0, 1], low_quality=False),
        in_features=["res4"],
        pooler=L(ROIPooler)(output_size=14, scales=(1.0 / 16,), sampling_ratio=0, pooler_type="ROIAlignV2"),
        res5=L(ResNet.make_stage)(
            block_class=BottleneckBlock,
            in_channels=1024,
            out_channels=2048,
            bottleneck_channels=512,
            num_blocks=3,
            stride_per_block=[2, 1, 1],
            stride_in_1x1=True,
            norm="FrozenBN",
        ),
        box_predictor=box_predictor(
            L(ShapeSpec)(channels="${...res5.out_channels}", height=1, width=1), "${..num_classes}"
        ),
        mask_head=L(MaskRCNNConvUpsampleHead)(
            num_classes="${..num_classes}",
            conv_dims=[256],
            input_shape=L(ShapeSpec)(
                height="${...pooler.output_size}",
                width="${...pooler.output_size}",
                channels="${...res5.out_channels}",
            ),
        ),
    ),
    **pixels(),
)
