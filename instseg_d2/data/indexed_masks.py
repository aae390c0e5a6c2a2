"""Bitmaps whose rows are references: all regions of an object share its bitmap."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from detectron2.layers import ROIAlign
from detectron2.structures import BitMasks, Boxes, Instances

# Bytes of bitmaps that are floats at a time.
_FLOAT_BYTES = {"cpu": 16 * 2**20}
_FLOAT_BYTES_ACCELERATOR = 512 * 2**20


class IndexedBitMasks(BitMasks):
    """detectron2's `BitMasks` in all but cost: rows are taken without a copy of pixels, and cropped without one.

    A detector takes 512 regions of an image, with the ground truth that each is matched with, and from these those in
    the foreground. Bitmaps of the whole image are copied twice that way, a byte a pixel.

    Args:
        tensor: (G, H, W) of any dtype; values other than zero are foreground.

    Attributes:
        index: (N,) int64, the bitmap of each row.
        pixels: (G, H, W) bool.
        tensor: (N, H, W) bool; a copy once rows were taken.
    """

    def __init__(self, tensor: torch.Tensor):
        super().__init__(tensor)
        self.index = torch.arange(len(self.pixels), device=self.pixels.device)
        self._whole = True

    @property
    def tensor(self) -> torch.Tensor:
        return self.pixels if self._whole else self.pixels[self.index]

    @tensor.setter
    def tensor(self, value: torch.Tensor) -> None:
        self.pixels = value

    @property
    def device(self) -> torch.device:
        return self.pixels.device

    def to(self, *args: Any, **kwargs: Any) -> IndexedBitMasks:
        moved = IndexedBitMasks(self.pixels.to(*args, **kwargs))
        moved.index, moved._whole = self.index.to(moved.device), self._whole
        return moved

    def __len__(self) -> int:
        return len(self.index)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_instances={len(self)}, of {len(self.pixels)} bitmaps)"

    def __iter__(self) -> Iterator[torch.Tensor]:
        for row in self.index.tolist():
            yield self.pixels[row]

    def __getitem__(self, item: int | slice | torch.Tensor) -> IndexedBitMasks:
        picked = IndexedBitMasks(self.pixels)
        if isinstance(item, torch.Tensor):
            item = item.to(self.device)
        picked.index, picked._whole = self.index[item].reshape(-1), False
        return picked

    def nonempty(self) -> torch.Tensor:
        return BitMasks(self.pixels).nonempty()[self.index]

    def get_bounding_boxes(self) -> Boxes:
        boxes = BitMasks(self.pixels).get_bounding_boxes()
        return boxes[self.index.to(boxes.device)]

    def crop_and_resize(self, boxes: torch.Tensor, mask_size: int) -> torch.Tensor:
        """As of `BitMasks`: (N, mask_size, mask_size) bool, cut out at boxes (N, 4) xyxy pixels, a row a box."""
        assert len(boxes) == len(self), f"{len(boxes)} boxes for {len(self)} masks"
        boxes = boxes.to(self.device, torch.float32)
        align = ROIAlign((mask_size, mask_size), spatial_scale=1.0, sampling_ratio=0, aligned=True)
        cropped = torch.zeros(len(self), mask_size, mask_size, dtype=torch.bool, device=self.device)
        budget = _FLOAT_BYTES.get(self.device.type, _FLOAT_BYTES_ACCELERATOR)
        step = max(1, budget // max(1, 4 * self.pixels[:1].numel()))
        for start in range(0, len(self.pixels), step):
            rows = slice(None)
            if step < len(self.pixels):
                rows = ((self.index >= start) & (self.index < start + step)).nonzero()[:, 0]
            part = self.pixels[start : start + step, None].float()
            rois = torch.cat([(self.index[rows] - start)[:, None].to(boxes), boxes[rows]], dim=1)
            cropped[rows] = align(part, rois)[:, 0] >= 0.5
        return cropped


def share_bitmaps(instances: Instances) -> Instances:
    """Make every `BitMasks` of an image's ground truth an `IndexedBitMasks`, in place; gives them back."""
    for name, value in instances.get_fields().items():
        if type(value) is BitMasks:
            instances.set(name, IndexedBitMasks(value.tensor))
    return instances
