"""Mask2Former on ResNet-50, with the sizes of the paper's instance segmentation; `stages.depth = 101` is ResNet-101.

The backbone is torchvision's: RGB images of unit variance, and the stride in the 3x3 convolutions.
"""

from detectron2.config import LazyCall as L
from detectron2.modeling.backbone.resnet import BasicStem, ResNet

from instseg_d2.modeling.meta_arch.mask2former.criterion import PointMaskLoss
from instseg_d2.modeling.meta_arch.mask2former.matcher import MaskMatcher
from instseg_d2.modeling.meta_arch.mask2former.model import Mask2Former
from instseg_d2.modeling.meta_arch.mask2former.pixel_decoder import DeformablePixelDecoder
from instseg_d2.modeling.meta_arch.mask2former.transformer_decoder import MaskedTransformerDecoder

model = L(Mask2Former)(
    backbone=L(ResNet)(
        stem=L(BasicStem)(in_channels=3, out_channels=64, norm="FrozenBN"),
        stages=L(ResNet.make_default_stages)(depth=50, stride_in_1x1=False, norm="FrozenBN"),
        out_features=["res2", "res3", "res4", "res5"],
        freeze_at=0,
    ),
    pixel_decoder=L(DeformablePixelDecoder)(
        in_features="${..backbone.out_features}",
        in_channels=[256, 512, 1024, 2048],
        channels=256,
        mask_channels=256,
        num_layers=6,
        num_heads=8,
        num_points=4,
        feedforward=1024,
        norm="GN",
    ),
    decoder=L(MaskedTransformerDecoder)(
        num_classes="${..num_classes}",
        num_queries=100,
        channels="${..pixel_decoder.channels}",
        mask_channels="${..pixel_decoder.mask_channels}",
        num_heads=8,
        feedforward=2048,
        num_layers=9,
        num_levels=3,
    ),
    supervision=L(PointMaskLoss)(
        matcher=L(MaskMatcher)(
            class_weight="${..class_weight}",
            bce_weight="${..bce_weight}",
            dice_weight="${..dice_weight}",
            num_points="${..num_points}",
        ),
        class_weight=2.0,
        no_object_weight=0.1,
        bce_weight=5.0,
        dice_weight=5.0,
        num_points=12544,
    ),
    num_classes=80,
    pixel_mean=[123.675, 116.280, 103.530],
    pixel_std=[58.395, 57.120, 57.375],
    input_format="RGB",
    max_detections=100,
)
