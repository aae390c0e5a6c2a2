"""Cascade Mask R-CNN on ResNet-50 FPN."""

from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import CascadeROIHeads

from ._parts import box_head, box_predictor, matcher
from .mask_rcnn_fpn import model

for _single in ("box_head", "box_predictor", "proposal_matcher"):
    model.roi_heads.pop(_single)

# IoU of a positive box in each stage; the deltas of a later stage are smaller, so they weigh more.
_ious = (0.5, 0.6, 0.7)
_weights = [(10 * stage, 10 * stage, 5 * stage, 5 * stage) for stage in (1, 2, 3)]

model.roi_heads.update(
    _target_=CascadeROIHeads,
    box_heads=[box_head() for _ in _ious],
    box_predictors=[
        box_predictor(ShapeSpec(channels=1024), "${...num_classes}", weights, cls_agnostic_bbox_reg=True)
        for weights in _weights
    ],
    proposal_matchers=[matcher([iou], [0, 1], low_quality=False) for iou in _ious],
)
