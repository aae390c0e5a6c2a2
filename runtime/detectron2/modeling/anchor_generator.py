"""Anchors: the boxes, laid over every cell of the feature maps, that a detector classifies and refines."""

import math
from collections.abc import Sequence

import torch
from torch import nn

from detectron2._left_out import left_out_class
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.structures import Boxes
from detectron2.utils.registry import Registry

__all__ = [
    "ANCHOR_GENERATOR_REGISTRY",
    "BufferList",
    "DefaultAnchorGenerator",
    "RotatedAnchorGenerator",
    "build_anchor_generator",
]

ANCHOR_GENERATOR_REGISTRY = Registry("ANCHOR_GENERATOR")
ANCHOR_GENERATOR_REGISTRY.__doc__ = "Classes built with `(cfg, input_shape: list[ShapeSpec])`, by name."

RotatedAnchorGenerator = left_out_class("RotatedAnchorGenerator", "rotated boxes")
ANCHOR_GENERATOR_REGISTRY.register(RotatedAnchorGenerator)


class BufferList(nn.Module):
    """A list of tensors that moves with the module and stays out of checkpoints.

    Args:
        buffers (Iterable[Tensor]): the tensors.
    """

    def __init__(self, buffers):
        super().__init__()
        for i, buffer in enumerate(buffers):
            self.register_buffer(str(i), buffer, persistent=False)

    def __len__(self):
        return len(self._buffers)

    def __iter__(self):
        return iter(self._buffers.values())


def _per_feature(values, num_features, name):
    """Repeat one list of numbers for all features; check a list of lists against their number."""
    assert isinstance(values, Sequence), f"{name} of the anchor generator must be a list, got {values}"
    assert len(values), f"{name} of the anchor generator is empty"
    if not isinstance(values[0], Sequence):
        return [values] * num_features
    if len(values) == 1:
        return [values[0]] * num_features
    assert len(values) == num_features, f"{len(values)} {name} for {num_features} features in the anchor generator"
    return values


@ANCHOR_GENERATOR_REGISTRY.register()
class DefaultAnchorGenerator(nn.Module):
    """Axis-aligned anchors of fixed sizes and aspect ratios around every cell.

    Args:
        sizes (list[list[float]] or list[float]): square roots of the anchors' areas, in pixels of the input image, per
            feature; one list serves all features.
        aspect_ratios (list[list[float]] or list[float]): height / width, per feature or for all, each combined with
            every size.
        strides (list[int]): stride of each feature.
        offset (float): where in its cell an anchor is centered, in strides, 0 <= offset < 1.
    """

    box_dim: int = 4

    @configurable
    def __init__(self, *, sizes, aspect_ratios, strides, offset=0.5):
        super().__init__()
        assert 0.0 <= offset < 1.0, f"offset must lie in [0, 1), got {offset}"
        self.strides = strides
        self.num_features = len(strides)
        self.offset = offset
        self.cell_anchors = BufferList(
            self.generate_cell_anchors(s, r).float()
            for s, r in zip(
                _per_feature(sizes, self.num_features, "sizes"),
                _per_feature(aspect_ratios, self.num_features, "aspect_ratios"),
                strict=True,
            )
        )

    @classmethod
    def from_config(cls, cfg, input_shape: list[ShapeSpec]):
        """Arguments of the constructor from `cfg.MODEL.ANCHOR_GENERATOR` and the strides of `input_shape`."""
        settings = cfg.MODEL.ANCHOR_GENERATOR
        return {
            "sizes": settings.SIZES,
            "aspect_ratios": settings.ASPECT_RATIOS,
            "strides": [shape.stride for shape in input_shape],
            "offset": settings.OFFSET,
        }

    @property
    def num_anchors(self):
        """list[int]: anchors per cell of each feature."""
        return [len(anchors) for anchors in self.cell_anchors]

    @property
    def num_cell_anchors(self):
        """The same as `num_anchors`."""
        return self.num_anchors

    def generate_cell_anchors(self, sizes=(32, 64, 128, 256, 512), aspect_ratios=(0.5, 1, 2)):
        """The anchors of one cell, centered at the origin, size by size.

        Args:
            sizes (Sequence[float]): square roots of the areas.
            aspect_ratios (Sequence[float]): height / width.

        Returns:
            Tensor: (len(sizes) * len(aspect_ratios), 4) xyxy.
        """
        anchors = []
        for size in sizes:
            for ratio in aspect_ratios:
                width = math.sqrt(size**2.0 / ratio)
                height = ratio * width
                anchors.append((-width / 2.0, -height / 2.0, width / 2.0, height / 2.0))
        return torch.tensor(anchors)

    def _grid_anchors(self, grid_sizes: list[list[int]]):
        """Anchors of each feature by its (height, width): (Hi * Wi * A, 4), in the order row, column, anchor."""
        grids = []
        for (height, width), stride, cell in zip(grid_sizes, self.strides, self.cell_anchors, strict=False):
            x, y = (
                torch.arange(self.offset * stride, cells * stride, step=stride, dtype=torch.float32, device=cell.device)
                for cells in (width, height)
            )
            x, y = x.expand(height, width), y[:, None].expand(height, width)
            centres = torch.stack((x, y, x, y), dim=-1)
            grids.append((centres[:, :, None] + cell).view(-1, 4))
        return grids

    def forward(self, features: list[torch.Tensor]):
        """Args:
            features: per level, (N, C, Hi, Wi).

        Returns:
            list[Boxes]: per level, its Hi * Wi * A anchors, the same for all images.
        """
        return [Boxes(grid) for grid in self._grid_anchors([feature.shape[-2:] for feature in features])]


def build_anchor_generator(cfg, input_shape):
    """Build the anchor generator that `cfg.MODEL.ANCHOR_GENERATOR.NAME` names.

    Args:
        cfg (CfgNode): the whole config.
        input_shape (list[ShapeSpec]): shapes of the features.
    """
    return ANCHOR_GENERATOR_REGISTRY.get(cfg.MODEL.ANCHOR_GENERATOR.NAME)(cfg, input_shape)
