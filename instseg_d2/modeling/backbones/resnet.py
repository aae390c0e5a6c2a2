"""Stages of ResNets that detectron2 itself builds only from its yaml configs."""

from collections.abc import Sequence

from detectron2.modeling.backbone.resnet import BottleneckBlock, CNNBlockBase, DeformBottleneckBlock

_BLOCKS_BY_DEPTH = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def resnet_dcn_stages(
    depth: int,
    *,
    deform_on_per_stage: Sequence[bool] = (False, True, True, True),
    deform_interval: int = 1,
    deform_modulated: bool = False,
    deform_num_groups: int = 1,
    stride_in_1x1: bool = True,
    norm: str = "FrozenBN",
) -> list[list[CNNBlockBase]]:
    """Stages res2 to res5 with deformable 3x3 convolutions (arXiv:1703.06211) in some of them.

    `ResNet.make_default_stages` takes one kind of block for all stages; this takes a kind for each. The layers are
    those of detectron2's `MODEL.RESNETS.DEFORM_ON_PER_STAGE`, so its checkpoints load, and ImageNet weights of an
    ordinary ResNet fill everything but the offsets, which start at zero.

    Args:
        depth: 50, 101 or 152.
        deform_on_per_stage: for res2, res3, res4, res5.
        deform_interval: of the blocks of such a stage, the first and every so many-th after it are deformable; 1 for
            all. With 3 in res3 to res5, a ResNet-101 has 11 such blocks in place of 30 (YOLACT++, arXiv:1912.06218).
        deform_modulated: deformable convolution v2 (arXiv:1811.11168), with a weight per tap.
        deform_num_groups: groups of channels with offsets of their own.
        stride_in_1x1: stride in the first 1x1 convolution of a block, as MSRA's weights have it, or in the 3x3 one.
        norm: as `detectron2.layers.get_norm` takes it.

    Returns:
        what `ResNet` takes as `stages`.

    Raises:
        ValueError: another depth, not one truth value a stage, or an interval below 1.
    """
    if deform_interval < 1:
        raise ValueError(f"deform_interval={deform_interval}: must be 1 or more")
    if depth not in _BLOCKS_BY_DEPTH or len(deform_on_per_stage) != 4:
        raise ValueError(
            f"depth={depth}, deform_on_per_stage={list(deform_on_per_stage)}: the depth must be one of "
            f"{list(_BLOCKS_BY_DEPTH)}, with four truth values"
        )
    deformable = {"deform_modulated": deform_modulated, "deform_num_groups": deform_num_groups}
    stages, channels = [], 64
    for index, (num_blocks, deform) in enumerate(zip(_BLOCKS_BY_DEPTH[depth], deform_on_per_stage, strict=True)):
        width = 64 * 2**index
        stage = []
        for at in range(num_blocks):
            is_deformable = deform and at % deform_interval == 0
            block = DeformBottleneckBlock if is_deformable else BottleneckBlock
            stage.append(
                block(
                    channels,
                    4 * width,
                    bottleneck_channels=width,
                    stride=2 if index > 0 and at == 0 else 1,
                    stride_in_1x1=stride_in_1x1,
                    norm=norm,
                    **(deformable if is_deformable else {}),
                )
            )
            channels = 4 * width
        stages.append(stage)
    return stages
