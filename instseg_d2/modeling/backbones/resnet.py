"""Stages of ResNets that detectron2 itself builds only from its yaml configs."""

from collections.abc import Sequence

from detectron2.modeling.backbone.resnet import BottleneckBlock, CNNBlockBase, DeformBottleneckBlock, ResNet

_BLOCKS_BY_DEPTH = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def resnet_dcn_stages(
    depth: int,
    *,
    deform_on_per_stage: Sequence[bool] = (False, True, True, True),
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
        deform_modulated: deformable convolution v2 (arXiv:1811.11168), with a weight per tap.
        deform_num_groups: groups of channels with offsets of their own.
        stride_in_1x1: stride in the first 1x1 convolution of a block, as MSRA's weights have it, or in the 3x3 one.
        norm: as `detectron2.layers.get_norm` takes it.

    Returns:
        what `ResNet` takes as `stages`.

    Raises:
        ValueError: another depth, or not one truth value a stage.
    """
    if depth not in _BLOCKS_BY_DEPTH or len(deform_on_per_stage) != 4:
        raise ValueError(
            f"depth={depth}, deform_on_per_stage={list(deform_on_per_stage)}: the depth must be one of "
            f"{list(_BLOCKS_BY_DEPTH)}, with four truth values"
        )
    deformable = {"deform_modulated": deform_modulated, "deform_num_groups": deform_num_groups}
    stages = []
    for index, (num_blocks, deform) in enumerate(zip(_BLOCKS_BY_DEPTH[depth], deform_on_per_stage, strict=True)):
        width = 64 * 2**index
        stages.append(
            ResNet.make_stage(
                DeformBottleneckBlock if deform else BottleneckBlock,
                num_blocks,
                in_channels=64 if index == 0 else 2 * width,
                out_channels=4 * width,
                bottleneck_channels=width,
                stride_per_block=[1 if index == 0 else 2] + [1] * (num_blocks - 1),
                stride_in_1x1=stride_in_1x1,
                norm=norm,
                **(deformable if deform else {}),
            )
        )
    return stages
