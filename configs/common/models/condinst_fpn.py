"""CondInst on ResNet-50 FPN with the FCOS of AdelaiDet; `projects/SIM` has its supervision by boxes."""

from detectron2.config import LazyCall as L

from instseg_d2.layers.dynamic_conv import DynamicLayers
from instseg_d2.modeling.meta_arch.condinst.model import CondInst
from instseg_d2.modeling.meta_arch.condinst.branch import MaskBranch
from instseg_d2.modeling.meta_arch.condinst.head import Controller, DynamicMaskHead
from instseg_d2.modeling.meta_arch.condinst.losses import MaskDiceLoss

from .fcos_fpn import model as _fcos

model = L(CondInst)(
    detector=_fcos,
    mask_branch=L(MaskBranch)(
        in_features=["p3", "p4", "p5"],
        in_channels="${..detector.backbone.out_channels}",
        channels=128,
        num_convs=4,
        out_channels=8,
        norm="BN",
    ),
    mask_head=L(DynamicMaskHead)(
        layers=L(DynamicLayers)(
            in_channels="${...mask_branch.out_channels}", channels=8, num_layers=3, relative_coordinates=True
        ),
        level_sizes=[64, 128, 256, 512, 1024],
        # Of stride 8 to stride 4.
        upsampling=2,
    ),
    supervision=L(MaskDiceLoss)(),
    semantic_head=None,
    max_positives=500,
    positives_per_image=None,
    input_format="BGR",
)
model.detector.update(
    center_sampling="mass",
    normalizer="mean",
    centerness_weighted_boxes=True,
    # On the product of class probability and centerness.
    test_thresh_on="product",
    test_score_thresh=0.05,
    keep_locations=True,
)
model.detector.head.update(
    level_scales=True,
    extra=L(Controller)(in_channels="${...backbone.out_channels}", layers="${....mask_head.layers}"),
)
