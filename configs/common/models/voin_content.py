"""VOIN's content completion at full width: the occlusion-aware generator against both discriminators."""

from detectron2.config import LazyCall as L

from instseg_d2.inpainting.adversarial import ClassAdversarialLoss, PatchAdversarialLoss
from instseg_d2.inpainting.discriminators import ClassDiscriminator, SpatioTemporalAttention, TPatchDiscriminator
from instseg_d2.inpainting.generator.losses import ReconstructionLoss
from instseg_d2.inpainting.generator.model import OcclusionAwareGenerator
from instseg_d2.inpainting.generator.shift import TemporalShift
from instseg_d2.inpainting.stages.content import ContentStage, Critics, Painter

model = L(ContentStage)(
    painter=L(Painter)(
        network=L(OcclusionAwareGenerator)(
            shift=L(TemporalShift)(width=5, offsets=[1, -1], share=0.25, learnable=True),
            width=64,
            dilations=[2, 4, 8, 16],
            gate="occlusion",
            mask_channels=32,
            residual=True,
        ),
        reconstruction=L(ReconstructionLoss)(hole_weight=1.0, valid_weight=1.0, valid_region="frame"),
        perceptual=None,
    ),
    critics=L(Critics)(
        patch=L(TPatchDiscriminator)(channels=[64, 128, 256, 256, 256, 256]),
        by_class=L(ClassDiscriminator)(
            num_classes=65,
            attention=L(SpatioTemporalAttention)(channels=256),
            channels=[64, 128, 256, 256, 256, 256],
        ),
        patch_loss=L(PatchAdversarialLoss)(weight=0.01),
        class_loss=L(ClassAdversarialLoss)(weight=0.01),
    ),
)
