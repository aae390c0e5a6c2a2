"""The one feature map that all masks of an image are made from."""

from collections.abc import Sequence

import torch
from detectron2.layers import ShapeSpec
from torch import nn

from instseg_d2.layers.convolution import conv_block
from instseg_d2.layers.coordinates import append_coordinates

from .head import initialize_convs


class SOLOv2MaskBranch(nn.Module):
    """Unified mask feature representation of SOLOv2 (arXiv:2003.10152, Sec. 3.3.2, Fig. 3).

    Every level is brought to the finest one's size by 3x3 convolutions, each but the finest level's followed by
    bilinear upsampling by two; the levels are added up, and a 1x1 convolution makes the mask features of the sum. The
    coarsest level gets two channels with coordinates first.

    Args:
        input_shape: `channels` and `stride` of the levels, finest first, each of twice the stride before it.
        conv_dim: channels of the 3x3 convolutions.
        out_channels: channels D of the mask features, numbers per kernel.
        norm: behind every convolution; "GN" has 32 groups. "" for none, with biases instead.

    Raises:
        ValueError: the strides do not double from level to level.
    """

    def __init__(
        self, *, input_shape: Sequence[ShapeSpec], conv_dim: int = 128, out_channels: int = 256, norm: str = "GN"
    ):
        super().__init__()
        shapes = list(input_shape)
        self.stride = shapes[0].stride
        strides = [shape.stride for shape in shapes]
        if strides != [self.stride * 2**index for index in range(len(shapes))]:
            raise ValueError(f"the strides of the mask branch's levels must double from level to level, not {strides}")
        self.levels = nn.ModuleList()
        for index, shape in enumerate(shapes):
            coordinates = 2 if index == len(shapes) - 1 else 0
            widths = [shape.channels + coordinates] + [conv_dim] * max(index, 1)
            layers = []
            for before, after in zip(widths, widths[1:], strict=False):
                layers.append(conv_block(before, after, norm=norm))
                if index:
                    layers.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
            self.levels.append(nn.Sequential(*layers))
        self.output = conv_block(conv_dim, out_channels, norm=norm, kernel_size=1)
        initialize_convs(self)

    def forward(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """Merge the levels.

        Args:
            features: per level (N, C, H_l, W_l), of exactly half the size of the level before.

        Returns:
            (N, D, H_0, W_0), not negative.
        """
        features = [*features[:-1], append_coordinates(features[-1])]
        merged = self.levels[0](features[0])
        for level, x in zip(self.levels[1:], features[1:], strict=True):
            merged = merged + level(x)
        return self.output(merged)
