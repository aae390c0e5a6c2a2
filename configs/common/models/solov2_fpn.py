"""SOLOv2 on ResNet-50 FPN, with the sizes of the paper and of AdelaiDet's code."""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec

from instseg_d2.modeling.meta_arch.solov2.model import SOLOv2
from instseg_d2.modeling.meta_arch.solov2.decoding import GridDecoder
from instseg_d2.modeling.meta_arch.solov2.head import SOLOv2Head
from instseg_d2.modeling.meta_arch.solov2.mask_branch import SOLOv2MaskBranch
from instseg_d2.modeling.meta_arch.solov2.targets import GridAssigner

from .mask_rcnn_fpn import model as _mask_rcnn

model = L(SOLOv2)(
    backbone=_mask_rcnn.backbone,
    head=L(SOLOv2Head)(
        input_shape=[L(ShapeSpec)(channels="${....backbone.out_channels}", stride=_s) for _s in (4, 8, 16, 32, 64)],
        strides=(8, 8, 16, 32, 32),
        grid_numbers="${..assigner.grid_numbers}",
        num_classes="${..num_classes}",
        conv_dims=[512, 512, 512, 512],
        kernel_channels="${..mask_branch.out_channels}",
        norm="GN",
    ),
    head_in_features=["p2", "p3", "p4", "p5", "p6"],
    mask_branch=L(SOLOv2MaskBranch)(
        input_shape=[L(ShapeSpec)(channels="${....backbone.out_channels}", stride=_s) for _s in (4, 8, 16, 32)],
        conv_dim=128,
        out_channels=256,
        norm="GN",
    ),
    mask_in_features=["p2", "p3", "p4", "p5"],
    assigner=L(GridAssigner)(
        grid_numbers=[40, 36, 24, 16, 12],
        # Square roots of box areas, for short edges of about 800 px.
        scale_ranges=[(1, 96), (48, 192), (96, 384), (192, 768), (384, 2048)],
        center_size=0.2,
    ),
    decoder=L(GridDecoder)(
        score_thresh=0.1,
        mask_thresh=0.5,
        nms_topk=500,
        nms_kernel="gaussian",
        nms_sigma=2.0,
        nms_score_thresh=0.05,
        max_per_image=100,
    ),
    num_classes=80,
    mask_loss_weight=3.0,
    masks_per_image=512,
    pixel_mean=_mask_rcnn.pixel_mean,
    pixel_std=_mask_rcnn.pixel_std,
)
