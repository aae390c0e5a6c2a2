"""VOIN's flow completion at full width: a residual U-Net of five levels; the losses are in pixels."""

from detectron2.config import LazyCall as L

from instseg_d2.inpainting.flow.completion import FlowCompletion, ResidualUNet
from instseg_d2.inpainting.flow.losses import FlowLoss
from instseg_d2.inpainting.stages.flow import FlowStage

model = L(FlowStage)(
    network=L(FlowCompletion)(
        network=L(ResidualUNet)(widths=[32, 64, 128, 256, 256]),
        flow_scale=20.0,
        contour_width=3,
        start="corrupted",
    ),
    loss=L(FlowLoss)(
        hole_weight=1.0,
        valid_weight=1.0,
        gradient_weight=1.0,
        # A mean over whole frames, of which an object is a few percent: at 0.5 it is a hundredth of the others.
        laplacian_weight=10.0,
        warp_weight=1.0,
        smoothness_weight=0.1,
    ),
)
