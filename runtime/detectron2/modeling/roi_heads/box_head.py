"""Box heads: pooled region features in, one feature vector (or map) per region out."""

import fvcore.nn.weight_init as weight_init
import torch
from torch import nn

from detectron2.config import configurable
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.utils.registry import Registry

__all__ = ["FastRCNNConvFCHead", "build_box_head", "ROI_BOX_HEAD_REGISTRY"]

ROI_BOX_HEAD_REGISTRY = Registry("ROI_BOX_HEAD")
ROI_BOX_HEAD_REGISTRY.__doc__ = "Box heads by name; each is called as `head(cfg, input_shape)`."


@ROI_BOX_HEAD_REGISTRY.register()
class FastRCNNConvFCHead(nn.Sequential):
    """3x3 convolutions (`conv1`, `conv2`, ...), then fully connected layers (`fc1`, `fc2`, ...), ReLU after each."""

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        conv_dims: list[int],
        fc_dims: list[int],
        conv_norm="",
    ):
        """Args:
        input_shape: channels, height and width of the pooled features.
        conv_dims: output channels of each convolution.
        fc_dims: output size of each fully connected layer.
        conv_norm: normalisation after the convolutions, as :func:`detectron2.layers.get_norm` takes it.
        """
        super().__init__()
        assert len(conv_dims) + len(fc_dims) > 0, "A box head needs at least one layer."
        channels, height, width = input_shape.channels, input_shape.height, input_shape.width

        self.conv_norm_relus = []
        for index, dim in enumerate(conv_dims, start=1):
            layer = Conv2d(
                channels,
                dim,
                kernel_size=3,
                padding=1,
                bias=not conv_norm,
                norm=get_norm(conv_norm, dim),
                activation=nn.ReLU(),
            )
            self.add_module(f"conv{index}", layer)
            self.conv_norm_relus.append(layer)
            channels = dim
        self._output_size = (channels, height, width)

        self.fcs = []
        if fc_dims:
            self.add_module("flatten", nn.Flatten())
            size = channels * height * width
            for index, dim in enumerate(fc_dims, start=1):
                layer = nn.Linear(size, dim)
                self.add_module(f"fc{index}", layer)
                self.add_module(f"fc_relu{index}", nn.ReLU())
                self.fcs.append(layer)
                size = dim
            self._output_size = size

        # Only now: every layer has drawn its default values by then, an order that seeded runs rely on.
        for fill, layers in (
            (weight_init.c2_msra_fill, self.conv_norm_relus),
            (weight_init.c2_xavier_fill, self.fcs),
        ):
            for layer in layers:
                fill(layer)

    @classmethod
    def from_config(cls, cfg, input_shape):
        head = cfg.MODEL.ROI_BOX_HEAD
        return dict(
            input_shape=input_shape,
            conv_dims=head.NUM_CONV * [head.CONV_DIM],
            fc_dims=head.NUM_FC * [head.FC_DIM],
            conv_norm=head.NORM,
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (R, C, H, W) pooled features to (R, `fc_dims[-1]`), or to a feature map without FC layers."""
        for layer in self:
            x = layer(x)
        return x

    @property
    def output_shape(self) -> ShapeSpec:
        """Shape of one region's output: channels only when the head ends in a fully connected layer."""
        if isinstance(self._output_size, tuple):
            return ShapeSpec(*self._output_size)
        return ShapeSpec(channels=self._output_size)


def build_box_head(cfg, input_shape: ShapeSpec) -> nn.Module:
    """Build the box head that `cfg.MODEL.ROI_BOX_HEAD.NAME` names."""
    return ROI_BOX_HEAD_REGISTRY.get(cfg.MODEL.ROI_BOX_HEAD.NAME)(cfg, input_shape)
