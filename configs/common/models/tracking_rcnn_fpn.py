"""Mask R-CNN on ResNet-50 FPN with a quasi-dense embedding head and tracker, in the sizes of QDTrack (2006.06664).

`frame_attention` and `instance_attention` are PCAN's places; both are empty here.
"""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler

from instseg_d2.modeling.meta_arch.video.two_stage import TrackingRCNN
from instseg_d2.modeling.tracking.pair_sampling import RegionSampler
from instseg_d2.modeling.tracking.quasi_dense import QuasiDenseHead, QuasiDenseTracker

from .mask_rcnn_fpn import model

model._target_ = TrackingRCNN
model.update(
    track_head=L(QuasiDenseHead)(
        pooler=L(ROIPooler)(
            output_size=7, scales=(1 / 4, 1 / 8, 1 / 16, 1 / 32), sampling_ratio=0, pooler_type="ROIAlignV2"
        ),
        input_shape=L(ShapeSpec)(channels="${...backbone.out_channels}", height=7, width=7),
        sampler=L(RegionSampler)(
            matcher=L(Matcher)(thresholds=[0.3, 0.7], labels=[0, -1, 1], allow_low_quality_matches=False),
            regions_per_image=256,
        ),
        conv_dims=[256, 256, 256, 256],
        conv_norm="GN",
        fc_dims=[1024],
        embedding_dim=256,
    ),
    track_in_features=["p2", "p3", "p4", "p5"],
    tracker=L(QuasiDenseTracker)(
        init_score=0.7, obj_score=0.3, match_score=0.5, memo_tracklet_frames=10, memo_momentum=0.8
    ),
    frame_attention=None,
    instance_attention=None,
    num_references=1,
)
