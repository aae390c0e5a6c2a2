"""FCOS on ResNet-50 FPN with masks and embeddings at centers, in the sizes of SipMask-VIS (arXiv:2007.14772).

Detector and mask head are those of `fcos_mask_fpn`, whose checkpoints load. `frame_attention` and `instance_attention`
are PCAN's places; both are empty here.
"""

from detectron2.config import LazyCall as L

from instseg_d2.modeling.meta_arch.video.one_stage import TrackingFCOS
from instseg_d2.modeling.tracking.center_embedding import CenterEmbeddingHead, CenterEmbeddingTracker

from .fcos_mask_fpn import model

_levels = ["p3", "p4", "p5"]

model._target_ = TrackingFCOS
del model.gt_boxes_only
# Masks are pooled from the levels that PCAN attends to.
model.mask_in_features = _levels
model.mask_pooler.scales = (1 / 8, 1 / 16, 1 / 32)
model.detector.update(
    test_thresh_on="product",
    test_score_thresh=0.03,
    test_topk_candidates=200,
    test_nms_thresh=0.5,
    max_detections_per_image=10,
)
model.update(
    track_head=L(CenterEmbeddingHead)(
        in_channels="${..detector.backbone.out_channels}",
        num_levels=3,
        stride=8,
        conv_dims=[256, 256],
        norm="GN",
        embedding_dim=512,
    ),
    track_in_features=_levels,
    tracker=L(CenterEmbeddingTracker)(second_choice=True, memory_frames=None),
    frame_attention=None,
    instance_attention=None,
    num_references=1,
)
