"""Axis-aligned boxes: storage formats, the `Boxes` container, and pairwise geometry."""

from __future__ import annotations

import math
from collections.abc import Iterator
from enum import IntEnum, unique

import numpy as np
import torch

RawBox = list[float] | tuple[float, ...] | torch.Tensor | np.ndarray


@unique
class BoxMode(IntEnum):
    """The ways in which annotation files and models write a box down.

    ``*_ABS`` are pixels, ``*_REL`` fractions of the image size. ``XYXY`` holds two corners, ``XYWH`` the top-left
    corner and the extent, ``XYWHA`` the centre, the extent, and a counter-clockwise angle in degrees.
    The relative modes name a format only: `convert` refuses them.
    """

    XYXY_ABS = 0
    XYWH_ABS = 1
    XYXY_REL = 2
    XYWH_REL = 3
    XYWHA_ABS = 4

    @staticmethod
    def convert(box: RawBox, from_mode: BoxMode, to_mode: BoxMode) -> RawBox:
        """Rewrite one box or a matrix of boxes in another mode.

        Args:
            box: a list or tuple of 4 or 5 numbers, or an (N, 4) / (N, 5) array or tensor. Never modified.
            from_mode: how `box` is written.
            to_mode: the mode wanted. ``XYWHA_ABS`` to ``XYXY_ABS`` gives the upright box around the rotated one.

        Returns:
            The boxes in the type they came in; `box` itself when the modes agree. Python floats take the precision
            of float32, as every consumer stores boxes in it.

        Raises:
            AssertionError: a relative mode, or a length other than 4 or 5.
            NotImplementedError: no rule leads from `from_mode` to `to_mode`.
        """
        if from_mode == to_mode:
            return box
        assert not {from_mode, to_mode} & {BoxMode.XYXY_REL, BoxMode.XYWH_REL}, (
            f"boxes in relative coordinates cannot be converted ({from_mode!r} to {to_mode!r}): scale them first"
        )

        if isinstance(box, (list, tuple)):
            assert len(box) in (4, 5), f"a single box has 4 or 5 numbers, got {len(box)}: {box}"
            source = torch.tensor(box)
        else:
            source = torch.as_tensor(box)

        rule = _CONVERSIONS.get((from_mode, to_mode))
        if rule is None:
            raise NotImplementedError(f"no conversion of boxes from {from_mode!r} to {to_mode!r}")
        converted = rule(source)

        if isinstance(box, torch.Tensor):
            return converted
        if isinstance(box, np.ndarray):
            return converted.numpy()
        return type(box)(converted.tolist())


def _xywh_to_xyxy(box: torch.Tensor) -> torch.Tensor:
    start, extent = box[..., :2], box[..., 2:4]
    return torch.cat([start, start + extent, box[..., 4:]], dim=-1)


def _xyxy_to_xywh(box: torch.Tensor) -> torch.Tensor:
    start, end = box[..., :2], box[..., 2:4]
    return torch.cat([start, end - start, box[..., 4:]], dim=-1)


def _xywh_to_xywha(box: torch.Tensor) -> torch.Tensor:
    wide = box.double()
    extent = wide[..., 2:4]
    upright = torch.zeros_like(wide[..., :1])
    return torch.cat([wide[..., :2] + extent / 2.0, extent, upright], dim=-1).to(box.dtype)


def _xywha_to_xyxy(box: torch.Tensor) -> torch.Tensor:
    assert box.shape[-1] == 5, f"XYWHA boxes have 5 columns, got shape {tuple(box.shape)}"
    x, y, w, h, degrees = box.double().unbind(-1)
    radians = degrees * math.pi / 180.0
    cos, sin = radians.cos().abs(), radians.sin().abs()
    width, height = cos * w + sin * h, cos * h + sin * w
    left, top = x - width / 2.0, y - height / 2.0
    return torch.stack([left, top, left + width, top + height], dim=-1).to(box.dtype)


_CONVERSIONS = {
    (BoxMode.XYWH_ABS, BoxMode.XYXY_ABS): _xywh_to_xyxy,
    (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS): _xyxy_to_xywh,
    (BoxMode.XYWH_ABS, BoxMode.XYWHA_ABS): _xywh_to_xywha,
    (BoxMode.XYWHA_ABS, BoxMode.XYXY_ABS): _xywha_to_xyxy,
}


class Boxes:
    """N axis-aligned boxes as one float32 matrix, used much like a tensor.

    Attributes:
        tensor: (N, 4) float32; rows are x0, y0, x1, y1 in absolute pixels.
    """

    def __init__(self, tensor: torch.Tensor):
        """Args: tensor: (N, 4) numbers in any dtype (or nested lists); anything without elements becomes (0, 4)."""
        if isinstance(tensor, torch.Tensor):
            tensor = tensor.to(torch.float32)
        else:
            tensor = torch.as_tensor(tensor, dtype=torch.float32, device="cpu")
        if tensor.numel() == 0:
            tensor = tensor.reshape(-1, 4)
        assert tensor.shape[1:] == (4,), f"boxes are an (N, 4) matrix, got {tuple(tensor.shape)}"
        self.tensor = tensor

    def clone(self) -> Boxes:
        return Boxes(self.tensor.clone())

    def to(self, device: torch.device) -> Boxes:
        """Move to `device`; the dtype stays float32."""
        return Boxes(self.tensor.to(device=device))

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    def area(self) -> torch.Tensor:
        """Signed areas (N,): negative where exactly one side is inverted."""
        w, h = self._extent()
        return w * h

    def clip(self, box_size: tuple[int, int]) -> None:
        """Limit the boxes, in this object, to an image of `box_size` = (height, width).

        Raises:
            AssertionError: a coordinate is infinite or NaN, which in training usually means divergence.
        """
        assert torch.isfinite(self.tensor).all(), "boxes to clip contain infinite or NaN coordinates"
        height, width = box_size
        x0, y0, x1, y1 = self.tensor.unbind(1)
        self.tensor = torch.stack(
            [x0.clamp(0, width), y0.clamp(0, height), x1.clamp(0, width), y1.clamp(0, height)], dim=1
        )

    def nonempty(self, threshold: float = 0.0) -> torch.Tensor:
        """(N,) bool: both sides are longer than `threshold` pixels."""
        w, h = self._extent()
        return (w > threshold) & (h > threshold)

    def inside_box(self, box_size: tuple[int, int], boundary_threshold: int = 0) -> torch.Tensor:
        """(N,) bool: no side leaves an image of `box_size` = (height, width) by more than the threshold.

        The right and bottom limits are exclusive, the left and top ones inclusive.
        """
        height, width = box_size
        x0, y0, x1, y1 = self.tensor.unbind(-1)
        within_start = (x0 >= -boundary_threshold) & (y0 >= -boundary_threshold)
        return within_start & (x1 < width + boundary_threshold) & (y1 < height + boundary_threshold)

    def get_centers(self) -> torch.Tensor:
        """(N, 2) centres as x, y."""
        return (self.tensor[:, :2] + self.tensor[:, 2:]) / 2

    def scale(self, scale_x: float, scale_y: float) -> None:
        """Multiply the coordinates in place."""
        self.tensor[:, 0::2] *= scale_x
        self.tensor[:, 1::2] *= scale_y

    @classmethod
    def cat(cls, boxes_list: list[Boxes]) -> Boxes:
        """Join lists of boxes; the result never shares memory with them. An empty list gives no boxes."""
        assert isinstance(boxes_list, (list, tuple)), f"Boxes.cat takes a list, got {type(boxes_list).__name__}"
        if not boxes_list:
            return cls(torch.empty(0))
        assert all(isinstance(boxes, Boxes) for boxes in boxes_list), "Boxes.cat takes Boxes only"
        return cls(torch.cat([boxes.tensor for boxes in boxes_list]))

    def __getitem__(self, item) -> Boxes:
        """Select boxes by an int (one box), a slice, or an index or bool tensor; slices share memory."""
        if isinstance(item, int):
            return Boxes(self.tensor[item][None])
        picked = self.tensor[item]
        assert picked.dim() == 2, f"indexing Boxes by {item} gives shape {tuple(picked.shape)}, not a matrix"
        return Boxes(picked)

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Yield each box as a (4,) tensor."""
        yield from self.tensor

    def __repr__(self) -> str:
        return f"Boxes({self.tensor})"

    def _extent(self) -> tuple[torch.Tensor, torch.Tensor]:
        x0, y0, x1, y1 = self.tensor.unbind(1)
        return x1 - x0, y1 - y0


def _overlap(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Intersection areas of boxes whose coordinates, along the first dimension, broadcast to the result."""
    left, top = torch.maximum(first[0], second[0]), torch.maximum(first[1], second[1])
    w = torch.minimum(first[2], second[2]).sub_(left).clamp_(min=0)
    h = torch.minimum(first[3], second[3]).sub_(top).clamp_(min=0)
    return w * h


def pairwise_intersection(boxes1: Boxes, boxes2: Boxes) -> torch.Tensor:
    """(N, M) areas that each of N boxes shares with each of M boxes."""
    # Coordinates first and contiguous: RPN compares hundreds of thousands of anchors.
    return _overlap(boxes1.tensor.t()[:, :, None], boxes2.tensor.t().contiguous()[:, None, :])


def pairwise_iou(boxes1: Boxes, boxes2: Boxes) -> torch.Tensor:
    """(N, M) intersection over union; 0, never NaN, for pairs that do not overlap or are empty."""
    shared = pairwise_intersection(boxes1, boxes2)
    union = (boxes1.area()[:, None] + boxes2.area()).sub_(shared)
    return torch.where(shared > 0, shared / union, 0.0)


def pairwise_ioa(boxes1: Boxes, boxes2: Boxes) -> torch.Tensor:
    """(N, M) intersection over the area of the box of `boxes2`; 0 for pairs that do not overlap."""
    shared = pairwise_intersection(boxes1, boxes2)
    return torch.where(shared > 0, shared / boxes2.area(), 0.0)


def pairwise_point_box_distance(points: torch.Tensor, boxes: Boxes) -> torch.Tensor:
    """Signed distances of (N, 2) points x, y to the sides of M boxes.

    Returns:
        (N, M, 4): left, top, right, bottom; all positive exactly where the point lies inside the box.
    """
    corners = boxes.tensor
    to_start = points[:, None] - corners[:, :2]
    to_end = corners[:, 2:] - points[:, None]
    return torch.cat([to_start, to_end], dim=2)


def matched_pairwise_iou(boxes1: Boxes, boxes2: Boxes) -> torch.Tensor:
    """(N,) IoU of the i-th box of one list with the i-th of the other; NaN where both are empty.

    Raises:
        AssertionError: the lists differ in length.
    """
    assert len(boxes1) == len(boxes2), f"matched boxes must pair up, got {len(boxes1)} and {len(boxes2)}"
    shared = _overlap(boxes1.tensor.t(), boxes2.tensor.t())
    return shared / (boxes1.area() + boxes2.area() - shared)
