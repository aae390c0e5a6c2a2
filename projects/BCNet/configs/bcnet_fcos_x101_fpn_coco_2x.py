"""BCNet on FCOS ResNeXt-101-32x8d-FPN, 180k x 16: the largest model of the authors' release."""

from detectron2.config import LazyCall as L
from detectron2.modeling.backbone.resnet import BottleneckBlock, ResNet

from .bcnet_fcos_r101_fpn_coco_2x import dataloader, lr_multiplier, model, optimizer, train

model.detector.backbone.bottom_up.stages = [
    L(ResNet.make_stage)(
        block_class=BottleneckBlock,
        num_blocks=_blocks,
        stride_per_block=[1 if _width == 256 else 2] + [1] * (_blocks - 1),
        in_channels=64 if _width == 256 else _width // 2,
        out_channels=_width,
        bottleneck_channels=_width,
        num_groups=32,
        stride_in_1x1=False,
        norm="FrozenBN",
    )
    for _blocks, _width in ((3, 256), (4, 512), (23, 1024), (3, 2048))
]
# What the ImageNet weights below were trained with.
model.detector.pixel_std = [57.375, 57.120, 58.395]
train.update(
    init_checkpoint="detectron2://ImageNetPretrained/FAIR/X-101-32x8d.pkl",
    output_dir="./output/bcnet_fcos_x101_fpn_coco_2x",
)
