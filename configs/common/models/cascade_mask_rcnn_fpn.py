"""Cascade Mask R-CNN on ResNet-50 FPN: three box stages of rising IoU, and the mask head of Mask R-CNN."""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.roi_heads import CascadeROIHeads, FastRCNNConvFCHead, FastRCNNOutputLayers

from .mask_rcnn_fpn import model


def make_cascade(model, fc_dims):
    """Replace the box stage of a Mask R-CNN, in place."""
    for key in ("box_head", "box_predictor", "proposal_matcher"):
        model.roi_heads.pop(key)
    model.roi_heads.update(
        _target_=CascadeROIHeads,
        box_heads=[
            L(FastRCNNConvFCHead)(
                input_shape=L(ShapeSpec)(channels="${.....backbone.out_channels}", height=7, width=7),
                conv_dims=[],
                fc_dims=list(fc_dims),
            )
            for _ in range(3)
        ],
        box_predictors=[
            L(FastRCNNOutputLayers)(
                input_shape=L(ShapeSpec)(channels=fc_dims[-1]),
                test_score_thresh=0.05,
                box2box_transform=L(Box2BoxTransform)(weights=(10 * stage, 10 * stage, 5 * stage, 5 * stage)),
                cls_agnostic_bbox_reg=True,
                num_classes="${...num_classes}",
            )
            for stage in (1, 2, 3)
        ],
        proposal_matchers=[
            L(Matcher)(thresholds=[iou], labels=[0, 1], allow_low_quality_matches=False) for iou in (0.5, 0.6, 0.7)
        ],
    )


make_cascade(model, fc_dims=[1024, 1024])
# The later stages see only what the first keeps: detectron2 doubles the proposals in training.
model.proposal_generator.post_nms_topk = (2000, 1000)
