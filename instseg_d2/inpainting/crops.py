"""The surroundings of an object at working size: cut out of frames, and put back without touching anything else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from .clips import from_bytes, to_bytes

# Less than that, in pixels a side, gives optical flow nothing to hold on to.
_LEAST_SIDE = 64


@dataclass(frozen=True)
class Crop:
    """A box of all frames of a clip, and the size at which it is worked on: that of the box, or smaller.

    Attributes:
        top: first row.
        left: first column.
        bottom: row after the last.
        right: column after the last.
        height: rows at working size.
        width: columns at working size.
    """

    top: int
    left: int
    bottom: int
    right: int
    height: int
    width: int

    @classmethod
    def around(cls, mask: np.ndarray, *, expand: float, area: int) -> Crop:
        """The box around a mask.

        Args:
            mask: (H, W) bool with at least one pixel.
            expand: by how much of its sides the box is enlarged, in total; it ends at the image's border.
            area: the most pixels at working size.
        """
        spans = []
        for axis, length in ((1, mask.shape[0]), (0, mask.shape[1])):
            places = np.flatnonzero(mask.any(axis=axis))
            side = places[-1] + 1 - places[0]
            more = max(math.ceil(expand * side), _LEAST_SIDE - side, 0)
            spans.append((max(places[0] - more // 2, 0), min(places[-1] + 1 + more - more // 2, length)))
        (top, bottom), (left, right) = ((int(low), int(high)) for low, high in spans)
        scale = min(1.0, math.sqrt(area / ((bottom - top) * (right - left))))
        sizes = (max(math.floor(scale * side), 1) for side in (bottom - top, right - left))
        return cls(top, left, bottom, right, *sizes)

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the box in an image."""
        return np.s_[self.top : self.bottom, self.left : self.right]

    @property
    def box_size(self) -> tuple[int, int]:
        """Height and width of the box in the frames, pixels."""
        return self.bottom - self.top, self.right - self.left

    @property
    def is_native(self) -> bool:
        """Whether the working size is that of the box."""
        return self.box_size == (self.height, self.width)

    def cut_frames(self, images: Sequence[np.ndarray], device: torch.device | str = "cpu") -> torch.Tensor:
        """Images (H, W, 3) uint8 BGR as (T, 3, h, w) float RGB in [-1, 1] at working size."""
        cut = np.stack([image[self.window][..., ::-1] for image in images])
        frames = from_bytes(torch.from_numpy(cut).to(device).permute(0, 3, 1, 2))
        return frames if self.is_native else F.interpolate(frames, (self.height, self.width), mode="area")

    def cut_masks(
        self, masks: Sequence[np.ndarray], device: torch.device | str = "cpu", *, any_pixel: bool = False
    ) -> torch.Tensor:
        """Masks (H, W) bool as (T, 1, h, w) float in {0, 1} at working size.

        Args:
            masks: T of them.
            device: of the result.
            any_pixel: a pixel at working size belongs to the mask as soon as one pixel under it does; otherwise at
                least half of them must.
        """
        cut = torch.from_numpy(np.stack([mask[self.window] for mask in masks])).to(device).float()[:, None]
        share = cut if self.is_native else F.interpolate(cut, (self.height, self.width), mode="area")
        return (share > 0 if any_pixel else share >= 0.5).float()

    def cut_flow(self, flow: torch.Tensor) -> torch.Tensor:
        """Flow (N, 2, H, W) of whole frames, pixels, as (N, 2, h, w) in pixels of the working size."""
        return self._resized(flow[(..., *self.window)], (self.height, self.width))

    def put_flow(self, flow: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Flow (N, 2, h, w) as (N, 2, H, W) of whole frames of `size`, zero around the box; undoes `cut_flow`."""
        whole = flow.new_zeros(len(flow), 2, *size)
        whole[(..., *self.window)] = self._resized(flow, self.box_size)
        return whole

    def _resized(self, flow: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        if tuple(flow.shape[-2:]) == size or not len(flow):
            return flow.new_zeros(len(flow), 2, *size) if not len(flow) else flow
        ratios = flow.new_tensor([size[1] / flow.shape[-1], size[0] / flow.shape[-2]])
        resized = F.interpolate(flow, size, mode="bilinear", align_corners=False, antialias=size < flow.shape[-2:])
        return resized * ratios.view(1, 2, 1, 1)

    def put_mask(self, mask: torch.Tensor, *, smooth: bool = False) -> np.ndarray:
        """A mask (1, h, w) float in {0, 1} as (rows, columns) bool of the box.

        Args:
            mask: at working size.
            smooth: a rounded outline; otherwise each pixel takes the value of the one that it lies in.
        """
        if not self.is_native:
            how = {"mode": "bilinear", "align_corners": False} if smooth else {"mode": "nearest-exact"}
            mask = F.interpolate(mask[None], self.box_size, **how)[0]
        return (mask[0] > 0.5).cpu().numpy()

    def put_colours(self, frame: torch.Tensor, known: torch.Tensor) -> np.ndarray:
        """A frame (3, h, w) float RGB as (rows, columns, 3) uint8 BGR of the box.

        Args:
            frame: at working size.
            known: (1, h, w) float in {0, 1}; enlarged colours are mixed from these pixels alone.
        """
        if not self.is_native:
            how = {"size": self.box_size, "mode": "bilinear", "align_corners": False}
            weight = F.interpolate(known[None].float(), **how)
            frame = (F.interpolate((frame.float() * known)[None], **how) / weight.clamp(min=1e-6))[0]
        return np.ascontiguousarray(to_bytes(frame).permute(1, 2, 0).cpu().numpy()[..., ::-1])
