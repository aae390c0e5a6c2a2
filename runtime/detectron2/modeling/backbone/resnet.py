"""ResNet and ResNeXt, with plain or deformable 3x3 convolutions."""

from itertools import chain

import torch.nn.functional as F
from fvcore.nn import weight_init
from torch import nn

from detectron2.layers import CNNBlockBase, Conv2d, DeformConv, ModulatedDeformConv, get_norm

from .backbone import Backbone
from .build import BACKBONE_REGISTRY

__all__ = [
    "BasicBlock",
    "BasicStem",
    "BottleneckBlock",
    "DeformBottleneckBlock",
    "ResNet",
    "ResNetBlockBase",
    "build_resnet_backbone",
    "make_stage",
]

ResNetBlockBase = CNNBlockBase

# Residual blocks of res2, res3, res4 and res5.
_BLOCKS_BY_DEPTH = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
_STAGE_NAMES = ("res2", "res3", "res4", "res5")


def _conv(in_channels, out_channels, kernel_size, norm, conv_class=Conv2d, dilation=1, **kwargs):
    """A size-keeping (at stride 1) convolution without bias, followed by `norm`."""
    return conv_class(
        in_channels,
        out_channels,
        kernel_size=kernel_size,
        padding=dilation * (kernel_size // 2),
        dilation=dilation,
        bias=False,
        norm=get_norm(norm, out_channels),
        **kwargs,
    )


class _ResidualBlock(CNNBlockBase):
    """relu(residual(x) + shortcut(x)); the shortcut is a 1x1 convolution where the channels change."""

    def __init__(self, in_channels, out_channels, stride, norm):
        super().__init__(in_channels, out_channels, stride)
        self.shortcut = None
        if in_channels != out_channels:
            self.shortcut = _conv(in_channels, out_channels, 1, norm, stride=stride)

    def _fill(self, *convs):
        # One random draw per layer, the shortcut last: the order decides which weights a seed gives.
        for conv in (*convs, self.shortcut):
            if conv is not None:
                weight_init.c2_msra_fill(conv)

    def _residual(self, x):
        raise NotImplementedError

    def forward(self, x):
        """Map (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        out = self._residual(x)
        out += x if self.shortcut is None else self.shortcut(x)
        return F.relu_(out)


class BasicBlock(_ResidualBlock):
    """Two 3x3 convolutions: the block of ResNet-18 and -34.

    Args:
        in_channels (int): input channels.
        out_channels (int): output channels.
        stride (int): stride of the first convolution and of the shortcut.
        norm (str or callable): see :func:`detectron2.layers.get_norm`.
    """

    def __init__(self, in_channels, out_channels, *, stride=1, norm="BN"):
        super().__init__(in_channels, out_channels, stride, norm)
        self.conv1 = _conv(in_channels, out_channels, 3, norm, stride=stride)
        self.conv2 = _conv(out_channels, out_channels, 3, norm)
        self._fill(self.conv1, self.conv2)

    def _residual(self, x):
        return self.conv2(F.relu_(self.conv1(x)))


class BottleneckBlock(_ResidualBlock):
    """1x1, 3x3 and 1x1 convolutions: the block of ResNet-50, -101, -152 and of ResNeXt.

    Args:
        in_channels (int): input channels.
        out_channels (int): output channels.
        bottleneck_channels (int): channels of the 3x3 convolution.
        stride (int): stride of the block.
        num_groups (int): groups of the 3x3 convolution.
        norm (str or callable): see :func:`detectron2.layers.get_norm`.
        stride_in_1x1 (bool): the first 1x1 convolution carries the stride (as in the MSRA weights), not the 3x3
            (as in torchvision's).
        dilation (int): dilation of the 3x3 convolution.
    """

    def __init__(
        self,
        in_channels,
        out_channels,
        *,
        bottleneck_channels,
        stride=1,
        num_groups=1,
        norm="BN",
        stride_in_1x1=False,
        dilation=1,
    ):
        super().__init__(in_channels, out_channels, stride, norm)
        first, second = (stride, 1) if stride_in_1x1 else (1, stride)
        width = bottleneck_channels
        self.conv1 = _conv(in_channels, width, 1, norm, stride=first)
        self.conv2 = _conv(width, width, 3, norm, stride=second, groups=num_groups, dilation=dilation)
        self.conv3 = _conv(width, out_channels, 1, norm)
        self._fill(self.conv1, self.conv2, self.conv3)

    def _residual(self, x):
        x = F.relu_(self.conv1(x))
        x = F.relu_(self.conv2(x))
        return self.conv3(x)


class DeformBottleneckBlock(_ResidualBlock):
    """A bottleneck block whose 3x3 convolution is deformable: a parallel convolution, zero at first, predicts where
    each of the nine taps samples and, if modulated, a weight in (0, 1) for it.

    Args:
        deform_modulated (bool): deformable convolution v2, with weights per tap, instead of v1.
        deform_num_groups (int): groups of channels with offsets of their own.

    The other arguments are those of :class:`BottleneckBlock`.
    """

    def __init__(
        self,
        in_channels,
        out_channels,
        *,
        bottleneck_channels,
        stride=1,
        num_groups=1,
        norm="BN",
        stride_in_1x1=False,
        dilation=1,
        deform_modulated=False,
        deform_num_groups=1,
    ):
        super().__init__(in_channels, out_channels, stride, norm)
        self.deform_modulated = deform_modulated
        first, second = (stride, 1) if stride_in_1x1 else (1, stride)
        width = bottleneck_channels
        self.conv1 = _conv(in_channels, width, 1, norm, stride=first)
        # Per tap of the 3x3 kernel: y, x and, if modulated, the weight.
        self.conv2_offset = Conv2d(
            width,
            (3 if deform_modulated else 2) * 9 * deform_num_groups,
            kernel_size=3,
            stride=second,
            padding=dilation,
            dilation=dilation,
        )
        self.conv2 = _conv(
            width,
            width,
            3,
            norm,
            conv_class=ModulatedDeformConv if deform_modulated else DeformConv,
            dilation=dilation,
            stride=second,
            groups=num_groups,
            deformable_groups=deform_num_groups,
        )
        self.conv3 = _conv(width, out_channels, 1, norm)
        self._fill(self.conv1, self.conv2, self.conv3)
        nn.init.zeros_(self.conv2_offset.weight)
        nn.init.zeros_(self.conv2_offset.bias)

    def _residual(self, x):
        x = F.relu_(self.conv1(x))
        where = self.conv2_offset(x)
        if self.deform_modulated:
            taps = where.shape[1] // 3
            x = self.conv2(x, where[:, : 2 * taps], where[:, 2 * taps :].sigmoid())
        else:
            x = self.conv2(x, where)
        return self.conv3(F.relu_(x))


class BasicStem(CNNBlockBase):
    """7x7 convolution of stride 2 and 3x3 max pooling of stride 2: what comes before the residual blocks.

    Args:
        in_channels (int): channels of the image.
        out_channels (int): output channels.
        norm (str or callable): see :func:`detectron2.layers.get_norm`.
    """

    def __init__(self, in_channels=3, out_channels=64, norm="BN"):
        super().__init__(in_channels, out_channels, 4)
        self.conv1 = _conv(in_channels, out_channels, 7, norm, stride=2)
        weight_init.c2_msra_fill(self.conv1)

    def forward(self, x):
        """Map (N, in_channels, H, W) to (N, out_channels, H / 4, W / 4)."""
        return F.max_pool2d(F.relu_(self.conv1(x)), kernel_size=3, stride=2, padding=1)


class ResNet(Backbone):
    """A stem and up to four stages of residual blocks, named res2 to res5, optionally with a classifier on top.

    Args:
        stem (nn.Module): has `stride`, `out_channels` and, for freezing, `freeze()`.
        stages (list[list[CNNBlockBase]]): the blocks of each stage. Stages behind the last one that `out_features`
            asks for are dropped.
        num_classes (int, optional): adds average pooling and a linear layer, output "linear".
        out_features (list[str], optional): what :meth:`forward` returns, of "stem", "res2" to "res5" and "linear";
            by default the last.
        freeze_at (int): see :meth:`freeze`.
    """

    def __init__(self, stem, stages, num_classes=None, out_features=None, freeze_at=0):
        super().__init__()
        self.stem = stem
        self.num_classes = num_classes
        self._out_feature_strides = {"stem": stem.stride}
        self._out_feature_channels = {"stem": stem.out_channels}

        if out_features is not None:
            deepest = max(_STAGE_NAMES.index(f) + 1 if f in _STAGE_NAMES else 0 for f in out_features)
            stages = stages[:deepest]
        self.stages = []
        last, stride, channels = "stem", stem.stride, stem.out_channels
        for number, blocks in enumerate(stages, start=2):
            assert len(blocks) > 0, f"Stage {number} has no block"
            for block in blocks:
                assert isinstance(block, CNNBlockBase), block
                stride *= block.stride
            last, channels = f"res{number}", blocks[-1].out_channels
            stage = nn.Sequential(*blocks)
            self.add_module(last, stage)
            self.stages.append(stage)
            self._out_feature_strides[last] = int(stride)
            self._out_feature_channels[last] = channels
        self.stage_names = tuple(f"res{number}" for number in range(2, 2 + len(self.stages)))

        if num_classes is not None:
            last = "linear"
            self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
            self.linear = nn.Linear(channels, num_classes)
            nn.init.normal_(self.linear.weight, std=0.01)

        self._out_features = [last] if out_features is None else out_features
        assert len(self._out_features), "out_features is empty"
        known = [name for name, _ in self.named_children()]
        for feature in self._out_features:
            assert feature in known, f"No output '{feature}'. Available children: {', '.join(known)}"
        self.freeze(freeze_at)

    def forward(self, x):
        """Args:
            x (Tensor): (N, C, H, W) images.

        Returns:
            dict[str, Tensor]: the outputs named by `out_features`.
        """
        assert x.dim() == 4, f"ResNet needs images of shape (N, C, H, W), got {tuple(x.shape)}"
        outputs = {}
        for name, layer in chain([("stem", self.stem)], zip(self.stage_names, self.stages, strict=True)):
            x = layer(x)
            if name in self._out_features:
                outputs[name] = x
        if self.num_classes is not None:
            x = self.linear(self.avgpool(x).flatten(1))
            if "linear" in self._out_features:
                outputs["linear"] = x
        return outputs

    def freeze(self, freeze_at=0):
        """Stop the training of the first stages, and turn their batch norms into frozen ones.

        Args:
            freeze_at (int): how many: 0 none, 1 the stem, 2 the stem and res2, and so on.

        Returns:
            ResNet: itself.
        """
        if freeze_at >= 1:
            self.stem.freeze()
        for stage in self.stages[: max(freeze_at - 1, 0)]:
            for block in stage:
                block.freeze()
        return self

    @staticmethod
    def make_stage(block_class, num_blocks, *, in_channels, out_channels, **kwargs):
        """Make the blocks of one stage.

        Args:
            block_class (type): a subclass of CNNBlockBase.
            num_blocks (int): how many.
            in_channels (int): input channels of the first block.
            out_channels (int): output channels of every block.
            kwargs: further arguments of `block_class`, the same for all blocks; an argument `xx_per_block` is a list
                with the value of `xx` for each block, as in `stride_per_block=[2, 1, 1]`.

        Returns:
            list[CNNBlockBase]
        """
        suffix = "_per_block"
        shared = {key: value for key, value in kwargs.items() if not key.endswith(suffix)}
        varying = {key.removesuffix(suffix): value for key, value in kwargs.items() if key.endswith(suffix)}
        for key, values in varying.items():
            assert len(values) == num_blocks, (
                f"make_stage got {len(values)} values in '{key}{suffix}' for num_blocks={num_blocks}"
            )
            assert key not in shared, f"make_stage got both '{key}' and '{key}{suffix}'"

        blocks = []
        for i in range(num_blocks):
            own = {key: values[i] for key, values in varying.items()}
            blocks.append(block_class(in_channels=in_channels, out_channels=out_channels, **shared, **own))
            in_channels = out_channels
        return blocks

    @staticmethod
    def make_default_stages(depth, block_class=None, **kwargs):
        """Make the four stages of a standard ResNet.

        Args:
            depth (int): 18, 34, 50, 101 or 152.
            block_class (type, optional): by default BasicBlock below 50 layers, BottleneckBlock from there. From 50
                layers on it must take `bottleneck_channels`.
            kwargs: further arguments of :meth:`make_stage`, except strides and channels.

        Returns:
            list[list[CNNBlockBase]]: for the constructor.
        """
        deep = depth >= 50
        if block_class is None:
            block_class = BottleneckBlock if deep else BasicBlock
        stages, in_channels = [], 64
        for i, num_blocks in enumerate(_BLOCKS_BY_DEPTH[depth]):
            width = 64 * 2**i
            if deep:
                kwargs["bottleneck_channels"] = width
            out_channels = 4 * width if deep else width
            stages.append(
                ResNet.make_stage(
                    block_class,
                    num_blocks,
                    in_channels=in_channels,
                    out_channels=out_channels,
                    stride_per_block=_strides(num_blocks, first=1 if i == 0 else 2),
                    **kwargs,
                )
            )
            in_channels = out_channels
        return stages


def _strides(num_blocks, first):
    return [first] + [1] * (num_blocks - 1)


def make_stage(*args, **kwargs):
    """The same as :meth:`ResNet.make_stage`."""
    return ResNet.make_stage(*args, **kwargs)


@BACKBONE_REGISTRY.register()
def build_resnet_backbone(cfg, input_shape):
    """Build a ResNet from `cfg.MODEL.RESNETS` and `cfg.MODEL.BACKBONE.FREEZE_AT`.

    Args:
        cfg (CfgNode): the whole config.
        input_shape (ShapeSpec): channels of the image.

    Returns:
        ResNet
    """
    resnets = cfg.MODEL.RESNETS
    shallow = resnets.DEPTH in (18, 34)
    assert resnets.RES5_DILATION in (1, 2), f"MODEL.RESNETS.RES5_DILATION is {resnets.RES5_DILATION}, not 1 or 2"
    if shallow:
        for key, supported in (("RES2_OUT_CHANNELS", 64), ("RES5_DILATION", 1), ("NUM_GROUPS", 1)):
            assert resnets[key] == supported, f"ResNet-18 and -34 need MODEL.RESNETS.{key} = {supported}"
        assert not any(resnets.DEFORM_ON_PER_STAGE), (
            "ResNet-18 and -34 have no deformable blocks: MODEL.RESNETS.DEFORM_ON_PER_STAGE must be all False"
        )

    stem = BasicStem(input_shape.channels, resnets.STEM_OUT_CHANNELS, resnets.NORM)
    stages, in_channels = [], resnets.STEM_OUT_CHANNELS
    for i, num_blocks in enumerate(_BLOCKS_BY_DEPTH[resnets.DEPTH]):
        dilation = resnets.RES5_DILATION if i == 3 else 1
        out_channels = resnets.RES2_OUT_CHANNELS * 2**i
        block_class, block_args = BasicBlock, {}
        if not shallow:
            block_class = BottleneckBlock
            block_args = {
                "bottleneck_channels": resnets.NUM_GROUPS * resnets.WIDTH_PER_GROUP * 2**i,
                "num_groups": resnets.NUM_GROUPS,
                "stride_in_1x1": resnets.STRIDE_IN_1X1,
                "dilation": dilation,
            }
            if resnets.DEFORM_ON_PER_STAGE[i]:
                block_class = DeformBottleneckBlock
                block_args["deform_modulated"] = resnets.DEFORM_MODULATED
                block_args["deform_num_groups"] = resnets.DEFORM_NUM_GROUPS
        stages.append(
            ResNet.make_stage(
                block_class,
                num_blocks,
                in_channels=in_channels,
                out_channels=out_channels,
                # A dilated res5 keeps the resolution of res4.
                stride_per_block=_strides(num_blocks, first=1 if i == 0 or dilation > 1 else 2),
                norm=resnets.NORM,
                **block_args,
            )
        )
        in_channels = out_channels
    return ResNet(stem, stages, out_features=resnets.OUT_FEATURES, freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT)
