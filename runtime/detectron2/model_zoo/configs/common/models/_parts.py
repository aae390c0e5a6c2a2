"""What the models are made of."""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone import BasicStem, ResNet
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator import RPN, StandardRPNHead
from detectron2.modeling.roi_heads import FastRCNNConvFCHead, FastRCNNOutputLayers

from ..data.constants import constants as _constants


def pixels():
    """The arguments of a model that normalise BGR images for MSRA's backbones."""
    return {
        "pixel_mean": _constants.imagenet_bgr256_mean,
        "pixel_std": _constants.imagenet_bgr256_std,
        "input_format": "BGR",
    }


def resnet50(out_features):
    """ResNet-50 with frozen normalisation; no stage is frozen yet, see `freeze_at`."""
    return L(ResNet)(
        stem=L(BasicStem)(in_channels=3, out_channels=64, norm="FrozenBN"),
        stages=L(ResNet.make_default_stages)(depth=50, stride_in_1x1=True, norm="FrozenBN"),
        out_features=out_features,
    )


def rpn(in_features, in_channels, num_anchors, sizes, strides, pre_nms_topk, post_nms_topk):
    """Region proposal network; the `topk` are pairs of training and test."""
    return L(RPN)(
        in_features=in_features,
        head=L(StandardRPNHead)(in_channels=in_channels, num_anchors=num_anchors),
        anchor_generator=L(DefaultAnchorGenerator)(
            sizes=sizes, aspect_ratios=[0.5, 1.0, 2.0], strides=strides, offset=0.0
        ),
        anchor_matcher=matcher([0.3, 0.7], [0, -1, 1], low_quality=True),
        box2box_transform=L(Box2BoxTransform)(weights=[1.0, 1.0, 1.0, 1.0]),
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_topk=pre_nms_topk,
        post_nms_topk=post_nms_topk,
        nms_thresh=0.7,
    )


def matcher(thresholds, labels, low_quality):
    return L(Matcher)(thresholds=thresholds, labels=labels, allow_low_quality_matches=low_quality)


def fpn_pooler(output_size):
    return L(ROIPooler)(
        output_size=output_size,
        scales=tuple(1.0 / stride for stride in (4, 8, 16, 32)),
        sampling_ratio=0,
        pooler_type="ROIAlignV2",
    )


def box_head():
    """Two fully connected layers on 7x7 features."""
    return L(FastRCNNConvFCHead)(
        input_shape=ShapeSpec(channels=256, height=7, width=7), conv_dims=[], fc_dims=[1024, 1024]
    )


def box_predictor(input_shape, num_classes, weights=(10, 10, 5, 5), **options):
    """Class scores and box deltas; `num_classes` is usually an interpolation."""
    return L(FastRCNNOutputLayers)(
        input_shape=input_shape,
        test_score_thresh=0.05,
        box2box_transform=L(Box2BoxTransform)(weights=weights),
        num_classes=num_classes,
        **options,
    )
