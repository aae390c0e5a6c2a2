"""FCOS on ResNet-50 FPN: RetinaNet's network without its anchors."""

from detectron2.modeling.meta_arch.fcos import FCOS, FCOSHead

from .retinanet import model

for _unused in ("anchor_generator", "anchor_matcher", "box2box_transform", "input_format"):
    del model[_unused]
del model.head["num_anchors"]

model._target_ = FCOS
model.head._target_ = FCOSHead
model.head.norm = "GN"
# P6 and P7 come from P5, not from C5: Sec. 2.2 of arXiv:2006.09214.
model.backbone.top_block.in_feature = "p5"
model.backbone.top_block.in_channels = 256
# The score is the root of class probability times centerness.
model.test_score_thresh = 0.2
model.test_nms_thresh = 0.6
