"""What is of a whole image as a field of its instances, which all of them share: maps, and regions to ignore."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.layers import ROIAlign


class _Shared:
    """One tensor that each of the instances of an image refers to.

    A field of `Instances` has one entry an instance, and models take rows of it as they sample regions. Here rows cost
    nothing: whatever is taken, the tensor stays one.
    """

    def __init__(self, tensor: torch.Tensor, count: int):
        self.tensor = tensor
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __repr__(self) -> str:
        return f"{type(self).__name__}({tuple(self.tensor.shape)} {self.tensor.dtype}, of {self.count} instances)"

    def __getitem__(self, item: Any) -> _Shared:
        """As of any field: by a number, a slice, a list, or a tensor of bool or of indices."""
        device = item.device if isinstance(item, torch.Tensor) else "cpu"
        return type(self)(self.tensor, torch.empty(self.count, dtype=torch.bool, device=device)[item].numel())

    def to(self, *args: Any, **kwargs: Any) -> _Shared:
        """With the tensor on another device."""
        return type(self)(self.tensor.to(*args, **kwargs), self.count)


class SharedMap(_Shared):
    """One map that all instances of an image refer to.

    Args:
        tensor: (C, H, W), any dtype, of the image's size.
        count: number of instances.
    """

    @torch.no_grad()
    def crop_and_resize(self, boxes: torch.Tensor, size: int) -> torch.Tensor:
        """Cut the map out at boxes, by the same bilinear sampling that crops masks.

        Args:
            boxes: (R, 4) xyxy pixels.
            size: side of the result.

        Returns:
            (R, C, size, size) float32.
        """
        image = torch.zeros(len(boxes), 1, device=boxes.device)
        rois = torch.cat([image, boxes.float()], dim=1)
        align = ROIAlign((size, size), spatial_scale=1.0, sampling_ratio=0, aligned=True)
        return align(self.tensor[None].to(boxes.device, torch.float32), rois)


class SharedBoxes(_Shared):
    """Boxes of an image that are none of its instances, such as regions to ignore.

    Args:
        tensor: (B, 4) float32, xyxy pixels; B has nothing to do with the number of instances.
        count: number of instances.
    """
