"""Instance masks in three forms: full-size bitmaps, polygons, and small maps inside their boxes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch

from detectron2.layers.roi_align import roi_align
from detectron2.utils.memory import retry_if_cuda_oom

from .boxes import Boxes

# Bytes of float32 copies of bitmaps that one RoIAlign call may need, on the CPU and elsewhere.
_CROP_BYTES_CPU = 16 * 1024**2
_CROP_BYTES_ACCELERATOR = 512 * 1024**2


def polygon_area(x: np.ndarray, y: np.ndarray) -> float:
    """Area enclosed by the polygon with vertices (x_i, y_i), in either orientation."""
    twice_signed = np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))
    return 0.5 * np.abs(twice_signed)


def polygons_to_bitmask(polygons: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """Union of polygons, each a flat x0, y0, x1, y1, ..., as a (height, width) bool bitmap by COCO's rasteriser."""
    if not len(polygons):
        return np.zeros((height, width), dtype=bool)
    parts = mask_util.frPyObjects(polygons, height, width)
    return mask_util.decode(mask_util.merge(parts)).astype(bool)


def rasterize_polygons_within_box(polygons: list[np.ndarray], box: np.ndarray, mask_size: int) -> torch.Tensor:
    """Draw the part of a polygon mask that lies in a box on a grid of its own.

    Args:
        polygons: the polygons of one instance, flat float64 vectors in image pixels. Not modified.
        box: (4,) x0, y0, x1, y1 in image pixels; sides below 0.1 pixels count as 0.1.
        mask_size: side of the grid that is laid over the box.

    Returns:
        (mask_size, mask_size) bool.
    """
    origin = np.asarray(box[:2])
    # max() over scalars of the box's own dtype: the ratios depend on that precision.
    ratio_x = mask_size / max(box[2] - box[0], 0.1)
    ratio_y = mask_size / max(box[3] - box[1], 0.1)
    drawn = []
    for polygon in polygons:
        vertices = np.array(polygon).reshape(-1, 2)
        vertices -= origin
        vertices *= (ratio_x, ratio_y)
        drawn.append(vertices.reshape(-1))
    return torch.from_numpy(polygons_to_bitmask(drawn, mask_size, mask_size))


class BitMasks:
    """One full-size bitmap per instance.

    Attributes:
        tensor: (N, H, W) bool.
        image_size: (H, W).
    """

    def __init__(self, tensor: torch.Tensor | np.ndarray):
        """Args: tensor: (N, H, W) of any dtype; values other than zero are foreground."""
        if isinstance(tensor, torch.Tensor):
            tensor = tensor.to(torch.bool)
        else:
            tensor = torch.as_tensor(tensor, dtype=torch.bool, device="cpu")
        assert tensor.dim() == 3, f"bitmaps are (N, H, W), got {tuple(tensor.shape)}"
        self.image_size = tensor.shape[1:]
        self.tensor = tensor

    def to(self, *args: Any, **kwargs: Any) -> BitMasks:
        return BitMasks(self.tensor.to(*args, **kwargs))

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    def __getitem__(self, item: int | slice | torch.Tensor) -> BitMasks:
        """Select masks by an int (one mask), a slice, or an index or bool tensor; slices share memory."""
        if isinstance(item, int):
            return BitMasks(self.tensor[item][None])
        picked = self.tensor[item]
        assert picked.dim() == 3, f"indexing BitMasks by {item} gives shape {tuple(picked.shape)}, not (N, H, W)"
        return BitMasks(picked)

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Yield each mask as an (H, W) tensor."""
        yield from self.tensor

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_instances={len(self)})"

    def nonempty(self) -> torch.Tensor:
        """(N,) bool: the mask has a foreground pixel."""
        if not self.tensor.numel():
            return self.tensor.new_zeros(len(self))
        # A maximum over bytes, unlike `any` over bools, is vectorised on the CPU.
        return self.tensor.contiguous().view(torch.uint8).flatten(1).amax(dim=1).bool()

    @staticmethod
    def from_polygon_masks(polygon_masks: PolygonMasks | list[list[np.ndarray]], height: int, width: int) -> BitMasks:
        """Rasterise polygons, given per instance, on an image of (height, width)."""
        bitmaps = np.zeros((len(polygon_masks), height, width), dtype=bool)
        for bitmap, polygons in zip(bitmaps, polygon_masks, strict=True):
            bitmap[:] = polygons_to_bitmask(polygons, height, width)
        return BitMasks(torch.from_numpy(bitmaps))

    @staticmethod
    def from_roi_masks(roi_masks: ROIMasks, height: int, width: int, boxes: Boxes | None = None) -> BitMasks:
        """Paste `roi_masks` into an image of (height, width), each at its box of `boxes`.

        Raises:
            ValueError: no `boxes`: a RoI mask does not know where it lies.
        """
        if boxes is None:
            raise ValueError("from_roi_masks needs `boxes`: a RoI mask does not know where it lies")
        return roi_masks.to_bitmasks(boxes, height, width)

    def crop_and_resize(self, boxes: torch.Tensor, mask_size: int) -> torch.Tensor:
        """Cut each mask out at its box and resample it to a square, as targets of a mask head.

        Args:
            boxes: (N, 4) x0, y0, x1, y1 in pixels, the i-th for the i-th mask.
            mask_size: side of the squares.

        Returns:
            (N, mask_size, mask_size) bool: the average of the covered pixels (aligned RoIAlign) is at least 0.5.
        """
        assert len(boxes) == len(self), f"{len(boxes)} boxes for {len(self)} masks"
        boxes = boxes.to(self.device)
        cropped = self.tensor.new_empty(len(self), mask_size, mask_size)
        # The bitmaps become floats a few at a time: all at once would need four times their memory.
        height, width = self.image_size
        budget = _CROP_BYTES_CPU if self.device.type == "cpu" else _CROP_BYTES_ACCELERATOR
        step = max(1, budget // max(1, 4 * height * width))
        for start in range(0, len(self), step):
            part = slice(start, start + step)
            bitmaps = self.tensor[part].to(torch.float32)
            index = torch.arange(len(bitmaps), device=self.device, dtype=boxes.dtype)
            rois = torch.cat([index[:, None], boxes[part]], dim=1).to(bitmaps.dtype)
            covered = roi_align(bitmaps[:, None], rois, (mask_size, mask_size), 1.0, 0, True)
            torch.ge(covered[:, 0], 0.5, out=cropped[part])
        return cropped

    def get_bounding_boxes(self) -> Boxes:
        """The tightest boxes around the masks, on the CPU; an empty mask has the box 0, 0, 0, 0."""
        # A maximum over bytes, unlike `any` over bools, is vectorised on the CPU.
        pixels = self.tensor.contiguous().view(torch.uint8)
        if not pixels.numel():
            return Boxes(torch.zeros(len(self), 4))
        x0, x1 = _occupied_range(pixels.amax(dim=1))
        y0, y1 = _occupied_range(pixels.amax(dim=2))
        return Boxes(torch.stack([x0, y0, x1, y1], dim=1).cpu())

    @staticmethod
    def cat(bitmasks_list: list[BitMasks]) -> BitMasks:
        """Join lists of bitmaps of one image size."""
        assert isinstance(bitmasks_list, (list, tuple)), "BitMasks.cat takes a list"
        assert len(bitmasks_list) > 0, "BitMasks.cat needs at least one BitMasks"
        assert all(isinstance(masks, BitMasks) for masks in bitmasks_list), "BitMasks.cat takes BitMasks only"
        return type(bitmasks_list[0])(torch.cat([masks.tensor for masks in bitmasks_list]))


def _occupied_range(flags: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Start and end (exclusive) of the ones in each row of an (N, L) matrix of 0 and 1; 0, 0 without any."""
    start = flags.argmax(dim=1)
    end = flags.shape[1] - flags.flip(1).argmax(dim=1)
    return start.float(), torch.where(flags.amax(dim=1) > 0, end, 0).float()


class PolygonMasks:
    """Masks as polygons: exact at any resolution and small, always in CPU memory.

    Attributes:
        polygons: per instance a list of polygons, each a float64 vector x0, y0, x1, y1, ... in pixels.
    """

    def __init__(self, polygons: list[list[torch.Tensor | np.ndarray]]):
        """Copy the polygons.

        Args:
            polygons: instances, then the polygons of an instance, then at least 3 vertices as flat coordinates.

        Raises:
            ValueError: a level that is no list, or a polygon with an odd number or fewer than 6 coordinates.
        """
        if not isinstance(polygons, list):
            raise ValueError(
                "PolygonMasks takes a list (instances) of lists (polygons of an instance), "
                f"got {type(polygons).__name__}"
            )
        self.polygons: list[list[np.ndarray]] = [_checked_polygons(instance) for instance in polygons]

    @classmethod
    def _of_checked(cls, polygons: list[list[np.ndarray]]) -> PolygonMasks:
        masks = cls.__new__(cls)
        masks.polygons = polygons
        return masks

    def to(self, *args: Any, **kwargs: Any) -> PolygonMasks:
        """Return this object: polygons stay in CPU memory."""
        return self

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def get_bounding_boxes(self) -> Boxes:
        """The tightest boxes around the polygons, but never ending left of or above the origin."""
        corners = np.empty((len(self), 4), dtype=np.float32)
        for row, polygons in zip(corners, self.polygons, strict=True):
            vertices = np.concatenate([np.reshape(p, (-1, 2)) for p in polygons] or [np.empty((0, 2))])
            row[:2] = vertices.min(axis=0, initial=np.inf)
            row[2:] = vertices.max(axis=0, initial=0.0)
        return Boxes(torch.from_numpy(corners))

    def nonempty(self) -> torch.Tensor:
        """(N,) bool: the instance has a polygon."""
        return torch.tensor([len(polygons) > 0 for polygons in self.polygons], dtype=torch.bool)

    def __getitem__(self, item: int | slice | list[int] | torch.Tensor | np.ndarray) -> PolygonMasks:
        """Select instances by an int (one instance), a slice, indices, or a bool vector; polygons are shared.

        Raises:
            ValueError: a tensor or array that is neither integral nor bool.
        """
        if isinstance(item, slice):
            return PolygonMasks._of_checked(self.polygons[item])
        if isinstance(item, (torch.Tensor, np.ndarray)):
            item = torch.as_tensor(item)
            if item.dtype == torch.bool:
                assert item.shape == (len(self),), f"bool index of shape {tuple(item.shape)} for {len(self)} masks"
                item = item.nonzero()[:, 0]
            elif item.is_floating_point() or item.is_complex():
                raise ValueError(f"PolygonMasks cannot be indexed by a tensor of dtype {item.dtype}")
            item = item.tolist()
        indices = item if isinstance(item, (list, tuple)) else [item]
        return PolygonMasks._of_checked([self.polygons[i] for i in indices])

    def __iter__(self) -> Iterator[list[np.ndarray]]:
        """Iterate over instances: each is its list of polygons."""
        return iter(self.polygons)

    def __len__(self) -> int:
        return len(self.polygons)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_instances={len(self)})"

    def crop_and_resize(self, boxes: torch.Tensor, mask_size: int) -> torch.Tensor:
        """Rasterise each mask on a square grid over its box, as targets of a mask head.

        Args:
            boxes: (N, 4) x0, y0, x1, y1 in pixels, the i-th for the i-th mask.
            mask_size: side of the grids.

        Returns:
            (N, mask_size, mask_size) bool on the device of `boxes`.
        """
        assert len(boxes) == len(self), f"{len(boxes)} boxes for {len(self)} masks"
        targets = torch.empty(len(self), mask_size, mask_size, dtype=torch.bool)
        for target, polygons, box in zip(targets, self.polygons, boxes.detach().cpu().numpy(), strict=True):
            target.copy_(rasterize_polygons_within_box(polygons, box, mask_size))
        return targets.to(boxes.device)

    def area(self) -> torch.Tensor:
        """(N,) sums of the areas of an instance's polygons in square pixels; overlaps count twice."""
        return torch.tensor([sum(polygon_area(p[0::2], p[1::2]) for p in polygons) for polygons in self.polygons])

    @staticmethod
    def cat(polymasks_list: list[PolygonMasks]) -> PolygonMasks:
        """Join lists of polygon masks; polygons are shared."""
        assert isinstance(polymasks_list, (list, tuple)), "PolygonMasks.cat takes a list"
        assert len(polymasks_list) > 0, "PolygonMasks.cat needs at least one PolygonMasks"
        assert all(isinstance(masks, PolygonMasks) for masks in polymasks_list), "only PolygonMasks can be joined"
        joined = itertools.chain.from_iterable(masks.polygons for masks in polymasks_list)
        return type(polymasks_list[0])._of_checked(list(joined))


def _checked_polygons(polygons: list[torch.Tensor | np.ndarray]) -> list[np.ndarray]:
    if not isinstance(polygons, list):
        raise ValueError(f"an instance of PolygonMasks is a list of polygons, got {type(polygons).__name__}")
    arrays = [p.detach().cpu().numpy() if isinstance(p, torch.Tensor) else p for p in polygons]
    vectors = [np.array(array, dtype=np.float64) for array in arrays]
    for vector in vectors:
        if len(vector) % 2 or len(vector) < 6:
            raise ValueError(f"a polygon needs an even number of at least 6 coordinates, got {len(vector)}")
    return vectors


class ROIMasks:
    """Masks as small square maps inside boxes that are kept elsewhere.

    Attributes:
        tensor: (N, M, M), probabilities or bool.
    """

    def __init__(self, tensor: torch.Tensor):
        """Raises ValueError unless `tensor` has 3 dimensions."""
        if tensor.dim() != 3:
            raise ValueError(f"RoI masks are (N, M, M), got {tuple(tensor.shape)}")
        self.tensor = tensor

    def to(self, device: torch.device) -> ROIMasks:
        return ROIMasks(self.tensor.to(device))

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __getitem__(self, item: slice | torch.Tensor) -> ROIMasks:
        """Select masks by a slice or an index or bool tensor; ValueError if the result is not (N, M, M)."""
        picked = self.tensor[item]
        if picked.dim() != 3:
            raise ValueError(f"indexing ROIMasks by {item} gives shape {tuple(picked.shape)}, not (N, M, M)")
        return ROIMasks(picked)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_instances={len(self)})"

    def to_bitmasks(self, boxes: Boxes, height: int, width: int, threshold: float = 0.5) -> BitMasks:
        """Paste each mask at its box into an image of (height, width) and keep what reaches `threshold`.

        Args and edge cases are those of `detectron2.layers.mask_ops.paste_masks_in_image`.
        """
        from detectron2.layers.mask_ops import paste_masks_in_image

        paste = retry_if_cuda_oom(paste_masks_in_image)
        return BitMasks(paste(self.tensor, boxes.tensor, (height, width), threshold=threshold))
