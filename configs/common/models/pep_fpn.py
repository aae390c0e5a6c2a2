"""PEP on ResNet-50 FPN on the grids of SOLOv2; `stages.depth = 101` makes it the paper's."""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec

from instseg_d2.modeling.meta_arch.pep.model import PEP
from instseg_d2.modeling.meta_arch.pep.excavate import ObjectExcavating
from instseg_d2.modeling.meta_arch.pep.masks import DescriptorDecoder
from instseg_d2.modeling.meta_arch.pep.perceive import SemanticsPerceiving
from instseg_d2.modeling.meta_arch.pep.purify import InstancePurifying
from instseg_d2.modeling.meta_arch.pep.targets import CellAssigner
from instseg_d2.modeling.meta_arch.solov2.mask_branch import SOLOv2MaskBranch

from .mask_rcnn_fpn import model as _mask_rcnn

model = L(PEP)(
    backbone=_mask_rcnn.backbone,
    head=L(SemanticsPerceiving)(
        input_shape=[L(ShapeSpec)(channels="${....backbone.out_channels}", stride=_s) for _s in (4, 8, 16, 32, 64)],
        grid_numbers=[40, 36, 24, 16, 12],
        grid_strides=[8, 8, 16, 32, 32],
        num_classes="${..num_classes}",
        conv_dims=[256, 256, 256, 256],
        descriptor_channels=256,
        norm="GN",
        classifier="sigmoid",
        negatives=3,
        shared_levels=True,
        shared_tower=False,
        score_threshold=0.1,
        max_originals=100,
    ),
    head_in_features=["p2", "p3", "p4", "p5", "p6"],
    mask_branch=L(SOLOv2MaskBranch)(
        input_shape=[L(ShapeSpec)(channels="${....backbone.out_channels}", stride=_s) for _s in (4, 8, 16, 32)],
        conv_dim=128,
        out_channels="${..head.descriptor_channels}",
        norm="GN",
    ),
    mask_in_features=["p2", "p3", "p4", "p5"],
    assigner=L(CellAssigner)(
        num_classes="${..num_classes}",
        # Square roots of box areas, for short edges of about 800 px.
        scale_ranges=[(1, 96), (48, 192), (96, 384), (192, 768), (384, 2048)],
        sigma=0.2,
        reach=1,
        semantic_region="center",
        descriptor_region="center",
    ),
    excavating=L(ObjectExcavating)(
        channels="${..head.descriptor_channels}",
        num_classes="${..num_classes}",
        window_scale=3.0,
        window_size=32,
        interaction="modulate",
        conv_dims=[128, 128],
        key_loss="focal",
        classifier="softmax",
        sample_feature=False,
        train_keys_per_original=3,
        train_keys_per_image=10,
        key_threshold=0.3,
        keys_per_original=3,
        detach=False,
        key_weight=1.0,
        class_weight=1.0,
    ),
    purifying=L(InstancePurifying)(
        channels="${..head.descriptor_channels}",
        embedding_dims=[256, 128],
        coordinates=False,
        similarity="cosine",
        balanced=True,
        merge_threshold=0.5,
        merge="greedy",
        loss_weight=1.0,
    ),
    decoder=L(DescriptorDecoder)(
        # None: only without purifying.
        matrix_nms=None,
        mask_thresh=0.5,
        nms_sigma=2.0,
        nms_score_thresh=0.05,
        max_per_image=100,
    ),
    num_classes=80,
    min_mask_areas=[8, 8, 16, 32, 32],
    originals_per_object=2,
    train_originals=20,
    max_nodes=100,
    dice_weight=3.0,
    bce_weight=0.0,
    mask_weight=1.0,
    keep_aux=False,
    pixel_mean=_mask_rcnn.pixel_mean,
    pixel_std=_mask_rcnn.pixel_std,
)
