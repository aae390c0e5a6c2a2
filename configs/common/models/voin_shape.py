"""VOIN's shape completion at the paper's size, for frames of 432 x 240 px: 8 layers of 4 heads, 64 channels."""

from detectron2.config import LazyCall as L

from instseg_d2.inpainting.shape.losses import ShapeLoss
from instseg_d2.inpainting.shape.model import ShapeCompletion
from instseg_d2.inpainting.shape.parts import ClassMaskFusion, FrameEncoder, ShapeDecoder
from instseg_d2.inpainting.shape.transformer import SpaceTimeTransformer
from instseg_d2.inpainting.stages.shape import ShapeStage

model = L(ShapeStage)(
    network=L(ShapeCompletion)(
        encoder=L(FrameEncoder)(in_channels=4, width=64),
        # Four times the width.
        transformer=L(SpaceTimeTransformer)(channels=256, num_layers=8, grids=[1, 3, 6, 12]),
        decoder=L(ShapeDecoder)(width="${..encoder.width}"),
        fusion=L(ClassMaskFusion)(
            in_channels="${..encoder.width}",
            num_classes=65,
            class_channels=16,
            hidden=[64, 32],
            class_dropout=0.1,
        ),
        threshold=0.5,
    ),
    loss=L(ShapeLoss)(erased_weight=5.0, bce_weight=1.0, dice_weight=1.0),
    known_occluders=False,
)
