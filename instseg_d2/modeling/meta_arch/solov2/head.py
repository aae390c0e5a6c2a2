"""The part of SOLOv2 that says, for each cell of a grid, which object is centered there and how to find its mask."""

import math
from collections.abc import Sequence

import torch
from detectron2.layers import Conv2d, ShapeSpec
from torch import nn
from torch.nn import functional as F

from instseg_d2.layers.convolution import conv_tower
from instseg_d2.layers.coordinates import append_coordinates


def initialize_convs(module: nn.Module) -> None:
    """Weights of all convolutions normal with deviation 0.01, biases 0: how SOLOv2's branches start."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=0.01)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class SOLOv2Head(nn.Module):
    """Category and kernel branch of SOLOv2 (arXiv:2003.10152, Sec. 3.2), shared by all levels.

    Each feature level is brought to its stride, gets two channels with coordinates, and is then resampled to a grid
    of S x S cells, whatever the shape of the image. The kernel tower sees the coordinates, the category tower does not.

    Args:
        input_shape: `channels` (all equal) and `stride` of the levels, finest first.
        strides: that the levels are brought to before they are resampled to the grid; the released model halves P2
            and enlarges P6: (8, 8, 16, 32, 32).
        grid_numbers: S of each level.
        num_classes: K.
        conv_dims: channels of the convolutions of either tower.
        kernel_channels: D, numbers per predicted kernel; those of the mask features.
        norm: of the towers; "GN" has 32 groups. "" for none, with biases instead.
        prior_prob: of a class in a cell at the start of training (RetinaNet, arXiv:1708.02002, Sec. 4.1).

    Raises:
        ValueError: the lists differ in length, or the levels in channels.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[ShapeSpec],
        strides: Sequence[int],
        grid_numbers: Sequence[int],
        num_classes: int,
        conv_dims: Sequence[int] = (512, 512, 512, 512),
        kernel_channels: int = 256,
        norm: str = "GN",
        prior_prob: float = 0.01,
    ):
        super().__init__()
        self.in_strides = [shape.stride for shape in input_shape]
        self.strides = list(strides)
        self.grid_numbers = list(grid_numbers)
        if not len(self.in_strides) == len(self.strides) == len(self.grid_numbers):
            raise ValueError(
                f"SOLOv2Head has {len(self.in_strides)} levels in input_shape, {len(self.strides)} in strides and "
                f"{len(self.grid_numbers)} in grid_numbers; give each level one of each"
            )
        channels = {shape.channels for shape in input_shape}
        if len(channels) != 1:
            raise ValueError(f"all levels share one head, so they need the same number of channels, not {channels}")
        in_channels, conv_dims = channels.pop(), list(conv_dims)
        width = conv_dims[-1] if conv_dims else in_channels
        self.category_tower = conv_tower(in_channels, conv_dims, norm=norm)
        self.kernel_tower = conv_tower(in_channels + 2, conv_dims, norm=norm)
        self.category_pred = Conv2d(width, num_classes, kernel_size=3, padding=1)
        self.kernel_pred = Conv2d(width, kernel_channels, kernel_size=3, padding=1)
        initialize_convs(self)
        nn.init.constant_(self.category_pred.bias, -math.log((1 - prior_prob) / prior_prob))

    def forward(self, features: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Predict on all levels.

        Args:
            features: per level (N, C, H_l, W_l).

        Returns:
            per level (N, K, S, S) class logits, without background; and (N, D, S, S) kernels.
        """
        categories, kernels = [], []
        for grid in self.grids(features):
            categories.append(self.category_pred(self.category_tower(grid[:, :-2])))
            kernels.append(self.kernel_pred(self.kernel_tower(grid)))
        return categories, kernels

    def grids(self, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The levels on their grids, (N, C + 2, S, S) each, the last two channels being x and y."""
        height, width = (side * self.in_strides[0] for side in features[0].shape[-2:])
        grids = []
        for level, before, stride, number in zip(
            features, self.in_strides, self.strides, self.grid_numbers, strict=True
        ):
            if stride != before:
                level = _resize(level, (height // stride, width // stride))
            grids.append(_resize(append_coordinates(level), (number, number)))
        return grids


def _resize(features: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(features, size=size, mode="bilinear", align_corners=False)
