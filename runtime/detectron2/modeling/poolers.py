"""Pooling of box features from the level of a feature pyramid that fits each box."""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import RoIPool

from detectron2._left_out import left_out_error
from detectron2.layers import ROIAlign, cat
from detectron2.structures import Boxes

__all__ = ["ROIPooler"]


def assign_boxes_to_levels(
    box_lists: list[Boxes],
    min_level: int,
    max_level: int,
    canonical_box_size: int,
    canonical_level: int,
):
    """Choose the pyramid level for each box: one level up per doubling of its size (Eq. 1 of arXiv:1612.03144).

    Args:
        box_lists: per image, its boxes; M in all.
        min_level (int): lowest level there is; level i has stride 2^i.
        max_level (int): highest level there is.
        canonical_box_size (int): side, in pixels, of the square that belongs to `canonical_level`.
        canonical_level (int): level of that square.

    Returns:
        Tensor: (M,) int64, 0 for `min_level`.
    """
    sizes = cat([boxes.area() for boxes in box_lists]).sqrt()
    # A box without area goes to the lowest level, not to -inf.
    levels = torch.floor(canonical_level + torch.log2(sizes / canonical_box_size + 1e-8))
    return levels.clamp(min=min_level, max=max_level).to(torch.int64) - min_level


def convert_boxes_to_pooler_format(box_lists: list[Boxes]):
    """Join the boxes of all images into the input of a RoI operator.

    Args:
        box_lists: per image, its boxes; M in all.

    Returns:
        Tensor: (M, 5), index of the image and xyxy in absolute pixels.
    """
    return torch.cat([F.pad(boxes.tensor, (1, 0), value=i) for i, boxes in enumerate(box_lists)])


class ROIPooler(nn.Module):
    """Pools features of boxes from one or more feature maps.

    Args:
        output_size (int or tuple[int, int]): height and width of the result.
        scales (list[float]): 1 / stride of each feature map; powers of two, each half of the one before.
        sampling_ratio (int): samples per bin and axis of ROIAlign; 0 adapts to the size of the box.
        pooler_type (str): "ROIAlignV2" (aligned to pixel centers), "ROIAlign" (with the old half-pixel shift) or
            "ROIPool".
        canonical_box_size (int): side, in pixels, of the box that is pooled from `canonical_level`.
        canonical_level (int): level i has stride 2^i. Larger or smaller boxes go to the next levels, as far as there
            are feature maps.
    """

    def __init__(
        self,
        output_size,
        scales,
        sampling_ratio,
        pooler_type,
        canonical_box_size=224,
        canonical_level=4,
    ):
        super().__init__()
        size = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
        assert len(size) == 2, f"output_size must be one or two integers, got {output_size}"
        assert all(isinstance(side, int) for side in size), f"output_size must be integers, got {output_size}"
        self.output_size = size

        if pooler_type in ("ROIAlign", "ROIAlignV2"):
            aligned = pooler_type == "ROIAlignV2"
            poolers = [ROIAlign(size, scale, sampling_ratio, aligned=aligned) for scale in scales]
        elif pooler_type == "ROIPool":
            poolers = [RoIPool(size, scale) for scale in scales]
        elif pooler_type == "ROIAlignRotated":
            raise left_out_error("ROIPooler(pooler_type='ROIAlignRotated')", "rotated boxes")
        else:
            raise ValueError(f"Unknown pooler type '{pooler_type}': not ROIAlignV2, ROIAlign or ROIPool")
        self.level_poolers = nn.ModuleList(poolers)

        first, last = -math.log2(scales[0]), -math.log2(scales[-1])
        assert math.isclose(first, int(first)), f"The stride 1 / {scales[0]} is not a power of 2"
        assert math.isclose(last, int(last)), f"The stride 1 / {scales[-1]} is not a power of 2"
        self.min_level, self.max_level = int(first), int(last)
        assert 0 <= self.min_level <= self.max_level, f"Levels {self.min_level} to {self.max_level} are no pyramid"
        assert len(scales) == self.max_level - self.min_level + 1, f"The scales {scales} do not form a pyramid"
        assert canonical_box_size > 0, f"canonical_box_size must be positive, got {canonical_box_size}"
        self.canonical_level = canonical_level
        self.canonical_box_size = canonical_box_size

    def forward(self, x: list[torch.Tensor], box_lists: list[Boxes]):
        """Args:
            x: per level, (N, C, Hi, Wi) features, in the order of `scales`.
            box_lists: per image, its boxes in absolute pixels of the image; M in all.

        Returns:
            Tensor: (M, C, *output_size).
        """
        assert len(x) == len(self.level_poolers), f"{len(x)} feature maps for {len(self.level_poolers)} scales"
        assert len(box_lists) == len(x[0]), f"Boxes of {len(box_lists)} images for features of {len(x[0])}"
        if len(box_lists) == 0:
            return x[0].new_zeros(0, x[0].shape[1], *self.output_size)

        rois = convert_boxes_to_pooler_format(box_lists)
        if len(x) == 1:
            return self.level_poolers[0](x[0], rois)

        # Sorted by level the RoIs of a level are a slice. Levels without RoIs are pooled too: their features stay in
        # the graph, as DistributedDataParallel wants it.
        levels = assign_boxes_to_levels(
            box_lists, self.min_level, self.max_level, self.canonical_box_size, self.canonical_level
        )
        order = levels.argsort(stable=True)
        counts = (levels[:, None] == torch.arange(len(x), device=levels.device)).sum(dim=0).tolist()
        parts = [
            pooler(features, part)
            for pooler, features, part in zip(self.level_poolers, x, rois[order].split(counts), strict=True)
        ]
        return torch.cat(parts).index_select(0, order.argsort())
