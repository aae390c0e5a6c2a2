"""Occluders: for each instance, what of the other instances lies in its box (BCNet, thesis chapter 3)."""

from dataclasses import dataclass

import numpy as np
import torch
from torchvision.ops import box_iou


@dataclass(frozen=True)
class OccluderRule:
    """Which other instances count as occluders of an instance.

    BCNet's rule knows no order: of two that overlap each is an occluder of the other, and all of them are one mask.

    Attributes:
        iou_above: the boxes of the two overlap by more than this intersection over union.
        pixels_above: the union in the box of the instance has more pixels than this, else it is left empty.
        front_only: nearer instances alone, by `depth` of the annotations, 0 nearest (not of BCNet).
    """

    iou_above: float = 0.05
    pixels_above: int = 20
    front_only: bool = False


def pixel_windows(boxes: torch.Tensor, height_width: tuple[int, int]) -> list[list[int]]:
    """The pixels that each box touches, as [x0, y0, x1, y1) inside the image, one list a box.

    Args:
        boxes: (N, 4) xyxy in pixels, where pixel c covers [c, c + 1).
        height_width: of the image.
    """
    height, width = height_width
    corners = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    windows = np.concatenate([np.floor(corners[:, :2]), np.ceil(corners[:, 2:])], axis=1)
    return windows.clip(0, [width, height, width, height]).astype(int).tolist()


def neighbours(boxes: torch.Tensor, rule: OccluderRule, depth: torch.Tensor | None = None) -> torch.Tensor:
    """(N, N) bool: the column's instance is an occluder of the row's.

    Args:
        boxes: (N, 4) xyxy.
        rule: which overlaps count.
        depth: (N,) order in the image, smaller is nearer; needed with `front_only`.
    """
    # In double precision a ratio such as 20 / 400 equals the 0.05 it is compared with.
    adjacent = box_iou(boxes.double(), boxes.double()) > rule.iou_above
    adjacent.fill_diagonal_(False)
    if rule.front_only:
        if depth is None:
            raise ValueError("front_only needs the depth of each instance")
        adjacent &= depth[None, :] < depth[:, None]
    return adjacent


def occluder_masks(
    masks: torch.Tensor,
    boxes: torch.Tensor,
    *,
    rule: OccluderRule | None = None,
    has_mask: torch.Tensor | None = None,
    depth: torch.Tensor | None = None,
) -> torch.Tensor:
    """The union of the masks of an instance's occluders, cut at its own box.

    The instance's own pixels are not taken out where masks overlap. Overlap of boxes is that of continuous
    coordinates, which no scaling of the image changes; the authors' script counts a pixel more on each side.

    Args:
        masks: (N, H, W) bool, on the CPU.
        boxes: (N, 4) xyxy in pixels of the masks, of the same instances.
        rule: which instances count; BCNet's by default.
        has_mask: (N,) bool; an instance without a mask of its own occludes nothing. All have one when left out.
        depth: see `neighbours`.

    Returns:
        (N, H, W) bool; all false for an instance without occluder.
    """
    rule = rule or OccluderRule()
    adjacent = neighbours(boxes, rule, depth)
    if has_mask is not None:
        adjacent &= has_mask[None, :]
    # NumPy: on crops as small as these its calls cost less than torch's, and fresh zeros take no time.
    as_bytes, adjacent = masks.numpy().view(np.uint8), adjacent.numpy()
    result = np.zeros(masks.shape, dtype=bool)
    windows = pixel_windows(boxes, masks.shape[1:])
    for row in np.flatnonzero(adjacent.any(axis=1)):
        x0, y0, x1, y1 = windows[row]
        union = as_bytes[adjacent[row], y0:y1, x0:x1].max(axis=0, initial=0)
        if np.count_nonzero(union) > rule.pixels_above:
            result[row, y0:y1, x0:x1] = union
    return torch.from_numpy(result)


def read_stored_occluders(polygons: list) -> list[np.ndarray]:
    """Polygons of `bg_object_segmentation`, as BCNet's authors publish them, as flat float64 arrays.

    Polygons of fewer than three points are left out: thinning the outlines leaves some behind, without any area.

    Raises:
        ValueError: not a list of polygons, or one whose numbers do not come in pairs or are not finite.
    """
    if not isinstance(polygons, list):
        raise ValueError(f"'bg_object_segmentation' must be a list of polygons, not {type(polygons).__name__}")
    arrays = [np.array(polygon, dtype=np.float64).reshape(-1) for polygon in polygons]
    for number, array in enumerate(arrays):
        if len(array) % 2 or not np.isfinite(array).all():
            raise ValueError(
                f"'bg_object_segmentation'[{number}] has {len(array)} numbers; it needs finite ones, an even count "
                "(x1, y1, x2, y2, ...)"
            )
    return [array for array in arrays if len(array) >= 6]


def cut_at_boxes(masks: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """What of each mask lies in the box of the same instance; (N, H, W) bool from masks (N, H, W), boxes (N, 4)."""
    result = torch.zeros_like(masks)
    for row, (x0, y0, x1, y1) in enumerate(pixel_windows(boxes, masks.shape[1:])):
        result[row, y0:y1, x0:x1] = masks[row, y0:y1, x0:x1]
    return result
