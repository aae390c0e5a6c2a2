"""Feature pyramid network (arXiv:1612.03144) over any backbone."""

import math

import torch.nn.functional as F
from fvcore.nn import weight_init
from torch import nn

from detectron2.layers import Conv2d, ShapeSpec, get_norm

from .backbone import Backbone
from .build import BACKBONE_REGISTRY
from .resnet import build_resnet_backbone

__all__ = [
    "build_resnet_fpn_backbone",
    "build_retinanet_resnet_fpn_backbone",
    "FPN",
    "LastLevelMaxPool",
    "LastLevelP6P7",
]


class FPN(Backbone):
    """Adds a top-down path with lateral connections to a backbone. The output of stride 2^i is called "p<i>".

    Args:
        bottom_up (Backbone): makes the features.
        in_features (list[str]): which of them to use, from high to low resolution; each stride must be twice the one
            before.
        out_channels (int): channels of every output.
        norm (str or callable): norm behind each convolution; see :func:`detectron2.layers.get_norm`. Without a norm
            the convolutions have biases.
        top_block (nn.Module, optional): makes further, coarser outputs. Called with the feature that its attribute
            `in_feature` names (one of the backbone's, else one of the outputs), it returns a list of `num_levels`
            tensors, each half the size of the one before.
        fuse_type (str): "sum" or "avg" of the lateral and the top-down feature.
        square_pad (int): side of the square that images are padded to; 0 for no square.
    """

    def __init__(self, bottom_up, in_features, out_channels, norm="", top_block=None, fuse_type="sum", square_pad=0):
        super().__init__()
        assert isinstance(bottom_up, Backbone), f"bottom_up is a {type(bottom_up)}, not a Backbone"
        assert in_features, "FPN needs at least one input feature"
        assert fuse_type in ("avg", "sum"), f"fuse_type is '{fuse_type}', not 'avg' or 'sum'"
        inputs = [bottom_up.output_shape()[name] for name in in_features]
        strides = [shape.stride for shape in inputs]
        for fine, coarse in zip(strides, strides[1:], strict=False):
            assert coarse == 2 * fine, f"FPN needs strides that double from level to level, got {fine} and {coarse}"
        levels = [int(math.log2(stride)) for stride in strides]

        # Plain lists, from low to high resolution: the modules are registered under the names of their levels.
        self.lateral_convs, self.output_convs = [], []
        for level, shape in zip(levels, inputs, strict=True):
            lateral, output = (
                Conv2d(
                    channels,
                    out_channels,
                    kernel_size=size,
                    padding=size // 2,
                    bias=norm == "",
                    norm=get_norm(norm, out_channels),
                )
                for channels, size in ((shape.channels, 1), (out_channels, 3))
            )
            for name, conv, convs in (
                ("lateral", lateral, self.lateral_convs),
                ("output", output, self.output_convs),
            ):
                weight_init.c2_xavier_fill(conv)
                self.add_module(f"fpn_{name}{level}", conv)
                convs.insert(0, conv)
        self.top_block = top_block
        self.in_features = tuple(in_features)
        self.bottom_up = bottom_up

        if top_block is not None:
            extra = range(levels[-1] + 1, levels[-1] + 1 + top_block.num_levels)
            levels.extend(extra)
            strides.extend(2**level for level in extra)
        self._out_features = [f"p{level}" for level in levels]
        self._out_feature_strides = dict(zip(self._out_features, strides, strict=True))
        self._out_feature_channels = dict.fromkeys(self._out_features, out_channels)
        self._size_divisibility = inputs[-1].stride
        self._square_pad = square_pad
        self._fuse_type = fuse_type

    @property
    def size_divisibility(self):
        """The stride of the coarsest input feature: else the top-down features would not fit the lateral ones."""
        return self._size_divisibility

    @property
    def padding_constraints(self):
        """The key `square_size`."""
        return {"square_size": self._square_pad}

    def forward(self, x):
        """Args:
            x (Tensor): input of the backbone, usually (N, C, H, W) images.

        Returns:
            dict[str, Tensor]: (N, out_channels, Hi, Wi) by name, from high to low resolution.
        """
        features = self.bottom_up(x)
        results, merged = [], None
        for name, lateral, output in zip(
            reversed(self.in_features), self.lateral_convs, self.output_convs, strict=True
        ):
            side = lateral(features[name])
            if merged is None:
                merged = side
            else:
                merged = side + F.interpolate(merged, scale_factor=2.0, mode="nearest")
                if self._fuse_type == "avg":
                    merged /= 2
            results.insert(0, output(merged))

        if self.top_block is not None:
            source = self.top_block.in_feature
            top_input = features[source] if source in features else results[self._out_features.index(source)]
            results.extend(self.top_block(top_input))
        assert len(results) == len(self._out_features), "top_block.num_levels is not what it returned"
        return dict(zip(self._out_features, results, strict=True))


class LastLevelMaxPool(nn.Module):
    """Every second pixel of p5 as p6, for the largest anchors of an RPN."""

    def __init__(self):
        super().__init__()
        self.num_levels = 1
        self.in_feature = "p5"

    def forward(self, x):
        """Map (N, C, H, W) to one tensor of half the size, in a list."""
        return [F.max_pool2d(x, kernel_size=1, stride=2)]


class LastLevelP6P7(nn.Module):
    """p6 and p7 by 3x3 convolutions of stride 2, as in RetinaNet.

    Args:
        in_channels (int): channels of `in_feature`.
        out_channels (int): channels of both outputs.
        in_feature (str): the feature to start from.
    """

    def __init__(self, in_channels, out_channels, in_feature="res5"):
        super().__init__()
        self.num_levels = 2
        self.in_feature = in_feature
        self.p6 = nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=2, padding=1)
        self.p7 = nn.Conv2d(out_channels, out_channels, kernel_size=3, stride=2, padding=1)
        weight_init.c2_xavier_fill(self.p6)
        weight_init.c2_xavier_fill(self.p7)

    def forward(self, c5):
        """Map (N, in_channels, H, W) to [p6, p7]."""
        p6 = self.p6(c5)
        return [p6, self.p7(F.relu(p6))]


def _fpn_from_config(cfg, bottom_up, top_block):
    fpn = cfg.MODEL.FPN
    return FPN(
        bottom_up, fpn.IN_FEATURES, fpn.OUT_CHANNELS, norm=fpn.NORM, top_block=top_block, fuse_type=fpn.FUSE_TYPE
    )


@BACKBONE_REGISTRY.register()
def build_resnet_fpn_backbone(cfg, input_shape: ShapeSpec):
    """Build a ResNet with the FPN of `cfg.MODEL.FPN` and a pooled p6.

    Args:
        cfg (CfgNode): the whole config.
        input_shape (ShapeSpec): channels of the image.

    Returns:
        FPN
    """
    return _fpn_from_config(cfg, build_resnet_backbone(cfg, input_shape), LastLevelMaxPool())


@BACKBONE_REGISTRY.register()
def build_retinanet_resnet_fpn_backbone(cfg, input_shape: ShapeSpec):
    """Build a ResNet with the FPN of `cfg.MODEL.FPN` and p6, p7 convolved from res5.

    Args:
        cfg (CfgNode): the whole config.
        input_shape (ShapeSpec): channels of the image.

    Returns:
        FPN
    """
    bottom_up = build_resnet_backbone(cfg, input_shape)
    top_block = LastLevelP6P7(bottom_up.output_shape()["res5"].channels, cfg.MODEL.FPN.OUT_CHANNELS)
    return _fpn_from_config(cfg, bottom_up, top_block)
