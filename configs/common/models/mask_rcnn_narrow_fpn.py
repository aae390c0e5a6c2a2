"""Mask R-CNN of about 3 million parameters for images of 128 to 320 px: trains from scratch on two CPU cores.

The same classes as the full model, on a ResNet-18 of half the usual width or less, with trained BatchNorm.
"""

from detectron2.config import LazyCall as L
from detectron2.modeling.backbone.resnet import BasicBlock, ResNet

from .mask_rcnn_fpn import model

_widths = [32, 64, 128, 192]

model.backbone.bottom_up.update(
    stages=[
        L(ResNet.make_stage)(
            block_class=BasicBlock,
            num_blocks=2,
            stride_per_block=[1 if _width == _widths[0] else 2, 1],
            in_channels=_before,
            out_channels=_width,
            norm="BN",
        )
        for _before, _width in zip([32, *_widths], _widths, strict=False)
    ],
    freeze_at=0,
)
model.backbone.bottom_up.stem.update(out_channels=32, norm="BN")
model.backbone.out_channels = 64

model.proposal_generator.anchor_generator.sizes = [[12], [24], [48], [96], [192]]
model.proposal_generator.update(batch_size_per_image=128, pre_nms_topk=(500, 300), post_nms_topk=(200, 100))
model.roi_heads.batch_size_per_image = 64
model.roi_heads.box_head.fc_dims = [256, 256]
model.roi_heads.box_predictor.input_shape.channels = 256
model.roi_heads.mask_head.conv_dims = [64, 64, 64, 64, 64]
model.pixel_std = [57.375, 57.120, 58.395]
