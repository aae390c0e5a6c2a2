"""FCOS on ResNet-50 FPN with the head of Mask R-CNN behind it, which pools from the levels that FCOS predicts from."""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler

from instseg_d2.modeling.mask_heads.mask_rcnn import MaskRCNNHead
from instseg_d2.modeling.meta_arch.detect_then_segment import DetectThenSegment

from .fcos_fpn import model as _fcos

model = L(DetectThenSegment)(
    detector=_fcos,
    mask_in_features=["p3", "p4", "p5", "p6", "p7"],
    mask_pooler=L(ROIPooler)(
        output_size=14,
        scales=(1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128),
        sampling_ratio=0,
        pooler_type="ROIAlignV2",
    ),
    mask_head=L(MaskRCNNHead)(
        input_shape=L(ShapeSpec)(channels="${...detector.backbone.out_channels}", width=14, height=14),
        num_classes="${..detector.num_classes}",
        conv_dims=[256, 256, 256, 256, 256],
    ),
    proposal_matcher=L(Matcher)(thresholds=[0.5], labels=[0, 1], allow_low_quality_matches=False),
    regions_per_image=128,
    gt_boxes_only=False,
    input_format="BGR",
)
