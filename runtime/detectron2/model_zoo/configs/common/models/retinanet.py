"""RetinaNet on ResNet-50 FPN."""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone import FPN
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.meta_arch import RetinaNet
from detectron2.modeling.meta_arch.retinanet import RetinaNetHead

from ._parts import matcher, pixels, resnet50

model = L(RetinaNet)(
    backbone=L(FPN)(
        bottom_up=resnet50(["res3", "res4", "res5"]),
        in_features=["res3", "res4", "res5"],
        out_channels=256,
        top_block=L(LastLevelP6P7)(in_channels=2048, out_channels="${..out_channels}"),
    ),
    head=L(RetinaNetHead)(
        input_shape=[ShapeSpec(channels=256)] * 5,
        num_classes="${..num_classes}",
        conv_dims=[256] * 4,
        prior_prob=0.01,
        num_anchors=9,
    ),
    anchor_generator=L(DefaultAnchorGenerator)(
        # three sizes per octave
        sizes=[[x, x * 2 ** (1 / 3), x * 2 ** (2 / 3)] for x in (32, 64, 128, 256, 512)],
        strides=[8, 16, 32, 64, 128],
        aspect_ratios=[0.5, 1.0, 2.0],
        offset=0.0,
    ),
    box2box_transform=L(Box2BoxTransform)(weights=[1.0, 1.0, 1.0, 1.0]),
    anchor_matcher=matcher([0.4, 0.5], [0, -1, 1], low_quality=True),
    head_in_features=["p3", "p4", "p5", "p6", "p7"],
    num_classes=80,
    focal_loss_gamma=2.0,
    focal_loss_alpha=0.25,
    **pixels(),
)
