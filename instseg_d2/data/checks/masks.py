"""What is wrong with masks of the right form: empty ones, ones outside of the image, boxes that are elsewhere."""

from collections.abc import Hashable, Iterable, Iterator
from typing import Any

import numpy as np
import shapely
from pycocotools import mask as mask_util

from ..datasets.validation import Advice, Finding
from .contents import Region

MASK_ADVICE: Advice = {
    "empty-mask": (
        True,
        "remove these: training drops them, and evaluation counts each as an instance that nobody finds",
    ),
    "mask-outside-image": (True, "remove these, or correct the coordinates: are they of another image, or scaled?"),
    "box-elsewhere": (
        True,
        "'bbox' is [x, y, width, height] of the mask in pixels, with x to the right; "
        "instseg_d2 recomputes boxes from masks with recompute_boxes=True of the mapper, evaluation does not",
    ),
    "box-outside-image": (True, "remove these, or correct the coordinates: are they of another image, or scaled?"),
    "duplicate-annotation": (True, "keep one: evaluation counts the other as an instance that nobody finds"),
    "polygon-leaves-image": (False, "fine; masks end at the image's border. Many of these hint at a wrong scale"),
    "box-leaves-image": (False, "fine; boxes are cut at the image's border. Many of these hint at a wrong scale"),
    "empty-polygon": (False, "fine beside other polygons of the instance; it covers no pixel"),
    "self-intersecting-polygon": (
        False,
        "fine for masks, which are drawn as they are; cropping augmentations may change the outline",
    ),
    "loose-box": (False, "fine if the box is meant to hold more than the mask, such as hidden parts"),
    "area-mismatch": (False, "COCO evaluation sorts instances into small, medium and large ones by 'area'"),
}

# Boxes of polygons and of pixels differ by up to a pixel at each side.
_BOX_TOLERANCE = 2.0
_RELATIVE_TOLERANCE = 0.05
_SAME_PLACE_IOU = 0.5
_ABSURD = 1e6


def _encode(region: Region) -> list[dict[str, Any]]:
    """The mask as compressed run lengths: one for each polygon, or one."""
    height, width = region.height_width
    mask = region.segmentation
    if isinstance(mask, list):
        return mask_util.frPyObjects(mask, height, width)
    if isinstance(mask["counts"], list):
        return [mask_util.frPyObjects(mask, height, width)]
    return [{"size": mask["size"], "counts": mask["counts"].encode()}]


def _points(region: Region) -> np.ndarray:
    """(N, 2) corners of all polygons."""
    return np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in region.segmentation]).astype(float)


def _is_outside(region: Region) -> bool:
    """Whether the polygons' extent misses the image, or is so far off that drawing it would take all memory."""
    height, width = region.height_width
    low, high = _points(region).min(axis=0), _points(region).max(axis=0)
    return bool(low[0] >= width or low[1] >= height or (high <= 0).any() or max(-low.min(), high.max()) > _ABSURD)


def _check_polygons(region: Region, areas: np.ndarray) -> Iterator[Finding]:
    height, width = region.height_width
    for number, (polygon, area) in enumerate(zip(region.segmentation, areas, strict=True)):
        points = np.reshape(polygon, (-1, 2)).astype(float)
        beyond = max(-points.min(), (points - [width, height]).max())
        which = f"{region.where}: polygon {number}"
        if beyond > _BOX_TOLERANCE:
            yield "polygon-leaves-image", f"{which} by {beyond:.1f} px of {width} x {height}"
        if area == 0:
            yield "empty-polygon", f"{which} covers no pixel: {_extent(points)}"
        elif not shapely.is_valid(outline := shapely.Polygon(points)):
            yield "self-intersecting-polygon", f"{which}: {shapely.is_valid_reason(outline)}"


def _extent(points: np.ndarray) -> str:
    (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)
    return f"x {x0:.1f} to {x1:.1f}, y {y0:.1f} to {y1:.1f}"


def _corners(box: Iterable[float], height_width: tuple[int, int]) -> np.ndarray:
    """Corners (x0, y0, x1, y1) of [x, y, width, height], inside the image."""
    x, y, w, h = box
    height, width = height_width
    return np.clip([x, y, x + w, y + h], 0, [width, height, width, height])


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    inner = np.prod(np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None))
    outer = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - inner
    return float(inner / outer) if outer > 0 else 0.0


def _check_box(region: Region, mask_box: np.ndarray) -> Iterator[Finding]:
    stated, found = _corners(region.box, region.height_width), _corners(mask_box, region.height_width)
    difference = np.abs(stated - found).max()
    if difference <= max(_BOX_TOLERANCE, _RELATIVE_TOLERANCE * (found[2:] - found[:2]).max()):
        return
    text = f"{region.where}: 'bbox' is {_rounded(region.box)}, the mask lies in {_rounded(mask_box)}"
    if _iou(stated, found) >= _SAME_PLACE_IOU:
        yield "loose-box", text
        return
    x0, y0, x1, y1 = region.box
    as_corners = _corners([x0, y0, x1 - x0, y1 - y0], region.height_width)
    hint = " (it fits when read as [x0, y0, x1, y1])" if _iou(as_corners, found) > 0.8 else ""
    yield "box-elsewhere", text + hint


def _check_lone_box(region: Region) -> Iterator[Finding]:
    """A box without a mask to compare it with."""
    height, width = region.height_width
    x0, y0, x1, y1 = _corners(region.box, region.height_width)
    x, y, w, h = region.box
    beyond = max(-x, -y, x + w - width, y + h - height)
    text = f"{region.where}: 'bbox' is {_rounded(region.box)}, the image is {width} x {height}"
    if x0 == x1 or y0 == y1:
        yield "box-outside-image", text
    elif beyond > _BOX_TOLERANCE:
        yield "box-leaves-image", text


def _rounded(box: Iterable[float]) -> list[float]:
    return [round(float(value), 1) for value in box]


def _check_mask(region: Region, rle: dict[str, Any], parts: list[dict[str, Any]]) -> Iterator[Finding]:
    area = int(mask_util.area(rle))
    if area == 0:
        yield "empty-mask", f"{region.where}: the mask covers no pixel"
        return
    if isinstance(region.segmentation, list):
        yield from _check_polygons(region, mask_util.area(parts))
    if region.box is not None and min(region.box[2:]) > 0:
        yield from _check_box(region, mask_util.toBbox(rle))
    if region.area is not None and abs(region.area - area) > max(20, 0.2 * area):
        yield "area-mismatch", f"{region.where}: 'area' is {region.area:g}, the mask has {area} pixels"


def check_masks(regions: Iterable[Region]) -> Iterator[Finding]:
    """Look at every mask; duplicates are regions of one picture and category with the same pixels, or the same box.

    Args:
        regions: whose masks have the right form.
    """
    seen: dict[Hashable, str] = {}
    for region in regions:
        if region.segmentation is None:
            what, shape = "box", tuple(region.box) if region.box is not None else None
            if shape is not None and min(region.box[2:]) > 0:
                yield from _check_lone_box(region)
        elif isinstance(region.segmentation, list) and _is_outside(region):
            height, width = region.height_width
            text = f"{region.where}: {_extent(_points(region))}, the image is {width} x {height}"
            yield "mask-outside-image", text
            continue
        else:
            parts = _encode(region)
            rle = mask_util.merge(parts)
            yield from _check_mask(region, rle, parts)
            # Equal pixels give equal run lengths, whatever they were drawn from.
            what, shape = "mask", rle["counts"] if mask_util.area(rle) else None
        key = (region.picture, region.category, shape)
        if shape is not None and key in seen:
            yield "duplicate-annotation", f"{region.where} has the {what} and the category of {seen[key]}"
        seen.setdefault(key, region.where)
