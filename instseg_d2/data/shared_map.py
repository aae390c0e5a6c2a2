"""A map of a whole image as a field of its instances, which all of them share."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.layers import ROIAlign


class SharedMap:
    """One map (C, H, W) that each of the instances of an image refers to.

    A field of `Instances` has one entry an instance, and models take rows of it as they sample regions. Here rows cost
    nothing: whatever is taken, the map stays one.

    Args:
        tensor: (C, H, W), any dtype, of the image's size.
        count: number of instances.
    """

    def __init__(self, tensor: torch.Tensor, count: int):
        self.tensor = tensor
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __repr__(self) -> str:
        return f"SharedMap({tuple(self.tensor.shape)} {self.tensor.dtype}, of {self.count} instances)"

    def __getitem__(self, item: Any) -> SharedMap:
        """As of any field: by a number, a slice, a list, or a tensor of bool or of indices."""
        device = item.device if isinstance(item, torch.Tensor) else "cpu"
        return SharedMap(self.tensor, torch.empty(self.count, dtype=torch.bool, device=device)[item].numel())

    def to(self, *args: Any, **kwargs: Any) -> SharedMap:
        """With the map on another device."""
        return SharedMap(self.tensor.to(*args, **kwargs), self.count)

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
