"""The ground truth that the mapper gives when asked: which masks may be seen, occluders, amodal masks, identities."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances, PolygonMasks
from pycocotools import mask as mask_util

from .occluders import OccluderRule, cut_at_boxes, occluder_masks, pixel_windows, read_stored_occluders
from .shared_map import SharedMap

EXTRA_FIELDS = ("gt_has_mask", "gt_occluders", "gt_amodal_masks", "gt_ids", "gt_seen", "gt_image")

Annotation = dict[str, Any]


def check_fields(extra_fields: Sequence[str], use_instance_mask: bool, mask_format: str) -> frozenset[str]:
    """The names as a set.

    Raises:
        ValueError: an unknown name, or a field that the other settings of the mapper rule out.
    """
    names = frozenset(extra_fields)
    unknown = sorted(names - set(EXTRA_FIELDS))
    if isinstance(extra_fields, str) or unknown:
        raise ValueError(f"extra_fields={extra_fields!r}: must be a list of names of {', '.join(EXTRA_FIELDS)}")
    from_masks = names - {"gt_ids", "gt_image"}
    if not use_instance_mask and from_masks:
        raise ValueError(f"{', '.join(sorted(from_masks))} come from masks: needs use_instance_mask=True")
    if "gt_occluders" in names and mask_format != "bitmask":
        raise ValueError("gt_occluders needs instance_mask_format='bitmask'")
    return names


def read_mask(mask: Any, height_width: tuple[int, int], mask_format: str) -> list[np.ndarray] | dict[str, Any]:
    """A mask that `transform_instance_annotations` may change: float polygons, or compressed run lengths.

    Raises:
        ValueError: a mask of another size, a polygon without area, or run lengths where polygons are asked for.
    """
    if isinstance(mask, dict):
        if mask_format == "polygon":
            raise ValueError("a run-length mask needs instance_mask_format='bitmask'")
        size = tuple(mask["size"])
        if size != tuple(height_width):
            raise ValueError(f"the mask has [height, width] {list(size)}, the image {list(height_width)}")
        return mask_util.frPyObjects(mask, *size) if isinstance(mask["counts"], list) else mask
    polygons = [np.array(polygon, dtype=np.float64).reshape(-1) for polygon in mask]
    for polygon in polygons:
        if len(polygon) < 6 or len(polygon) % 2 or not np.isfinite(polygon).all():
            raise ValueError(f"a polygon has {len(polygon)} numbers; it needs 6 or more finite ones, an even count")
    return polygons


def read_entries(
    annotation: Annotation,
    extra_fields: Collection[str],
    height_width: tuple[int, int],
    *,
    visible: bool,
    rule: OccluderRule,
) -> Annotation:
    """Checked entries of one annotation that the fields are made from.

    Args:
        annotation: of the record.
        extra_fields: of `EXTRA_FIELDS`.
        height_width: of the image before augmentation.
        visible: whether its mask may be seen; of a hidden one nothing but the identity is read.
        rule: of the occluders.

    Returns:
        Of `instance_id`, `amodal_segmentation`, `depth`, `bg_object_segmentation` those that are needed.

    Raises:
        ValueError: an entry is missing or broken.
    """
    entries: Annotation = {}
    if "gt_ids" in extra_fields:
        entries["instance_id"] = int(_required(annotation, "instance_id", "gt_ids"))
    if visible and "gt_amodal_masks" in extra_fields:
        amodal = _required(annotation, "amodal_segmentation", "gt_amodal_masks")
        entries["amodal_segmentation"] = read_mask(amodal, height_width, "bitmask")
    if visible and "gt_occluders" in extra_fields:
        if rule.front_only:
            entries["depth"] = int(_required(annotation, "depth", "gt_occluders with front_only=True"))
        elif annotation.get("bg_object_segmentation") is not None:
            entries["bg_object_segmentation"] = read_stored_occluders(annotation["bg_object_segmentation"])
    return entries


def _required(annotation: Annotation, key: str, field: str) -> Any:
    if annotation.get(key) is None:
        raise ValueError(
            f"no '{key}', which {field} is made from; the file must have it, and register_coco keep it with "
            f"extra_annotation_keys=['{key}']"
        )
    return annotation[key]


def fill_hidden(annotations: list[Annotation], height_width: tuple[int, int], mask_format: str) -> None:
    """Give every annotation without `segmentation` its filled box: one polygon, or the bitmap of `filled_boxes`.

    Args:
        annotations: with boxes (xyxy) of the augmented image; changed in place.
        height_width: of the augmented image.
        mask_format: "polygon" or "bitmask".
    """
    hidden = [annotation for annotation in annotations if "segmentation" not in annotation]
    if not hidden:
        return
    boxes = np.stack([annotation["bbox"] for annotation in hidden])
    if mask_format == "polygon":
        masks = [[corners] for corners in boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]]]
    else:
        masks = list(filled_boxes(torch.from_numpy(boxes), height_width).numpy())
    for annotation, mask in zip(hidden, masks, strict=True):
        annotation["segmentation"] = mask


def filled_boxes(boxes: torch.Tensor, height_width: tuple[int, int]) -> torch.Tensor:
    """Every pixel that a box touches, (N, H, W) bool from (N, 4) xyxy.

    Never empty for a box with area inside the image, so that no filter takes the instance, and its box, away.
    """
    masks = torch.zeros(len(boxes), *height_width, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, pixel_windows(boxes, height_width), strict=True):
        mask[y0:y1, x0:x1] = True
    return masks


def boxes_from_masks(instances: Instances, has_mask: torch.Tensor) -> Boxes:
    """Boxes of the masks (`gt_masks`), and `gt_boxes` as they are for instances whose mask is hidden."""
    tight = instances.gt_masks.get_bounding_boxes().tensor
    return Boxes(torch.where(has_mask[:, None], tight, instances.gt_boxes.tensor))


def amodal_masks(entries: list[Annotation], instances: Instances, transforms: T.TransformList) -> BitMasks:
    """The whole objects in the augmented image; for hidden ones the filled box.

    Args:
        entries: from `read_entries`, parallel to the instances.
        instances: of the augmented image.
        transforms: what was done to the image.
    """
    masks = filled_boxes(instances.gt_boxes.tensor, instances.image_size)
    visible = [index for index, entry in enumerate(entries) if "amodal_segmentation" in entry]
    if visible:
        amodal = [entries[index]["amodal_segmentation"] for index in visible]
        masks[visible] = _transformed(amodal, transforms, instances.image_size)
    return BitMasks(masks)


def occluders(
    entries: list[Annotation],
    instances: Instances,
    transforms: T.TransformList,
    *,
    has_mask: torch.Tensor,
    rule: OccluderRule,
) -> BitMasks:
    """Occluders in the augmented image, from stored polygons where an annotation has them, else from `gt_masks`.

    Hidden masks add nothing. With `front_only` a hidden instance has no occluders, as its depth is hidden too.

    Args:
        entries: from `read_entries`, parallel to the instances.
        instances: of the augmented image, with `gt_boxes`, and `gt_masks` (BitMasks) unless there are none.
        transforms: what was done to the image.
        has_mask: (N,) bool.
        rule: which instances count.
    """
    if not entries:
        return BitMasks(torch.zeros(0, *instances.image_size, dtype=torch.bool))
    boxes = instances.gt_boxes.tensor
    depth = torch.tensor([entry.get("depth", -1) for entry in entries]) if rule.front_only else None
    masks = occluder_masks(instances.gt_masks.tensor, boxes, rule=rule, has_mask=has_mask, depth=depth)
    stored = [index for index, entry in enumerate(entries) if "bg_object_segmentation" in entry]
    if stored:
        polygons = [entries[index]["bg_object_segmentation"] for index in stored]
        masks[stored] = cut_at_boxes(_transformed(polygons, transforms, instances.image_size), boxes[stored])
    return BitMasks(masks)


def seen_area(instances: Instances, has_mask: torch.Tensor) -> SharedMap:
    """Where in the augmented image masks lie that may be seen, a map (1, H, W) bool; hidden ones add nothing.

    Args:
        instances: of the augmented image, with `gt_masks` unless there are none.
        has_mask: (N,) bool.
    """
    area = torch.zeros(1, *instances.image_size, dtype=torch.bool)
    if has_mask.any():
        seen = instances.gt_masks[has_mask]
        if isinstance(seen, PolygonMasks):
            seen = BitMasks.from_polygon_masks(seen, *instances.image_size)
        area[0] = seen.tensor.any(dim=0)
    return SharedMap(area, len(has_mask))


def _transformed(
    masks: list[list[np.ndarray] | dict[str, Any]], transforms: T.TransformList, height_width: tuple[int, int]
) -> torch.Tensor:
    """Masks after the augmentations, (N, H, W) bool, by what detectron2 does with `segmentation`."""
    whole = {"bbox": [0, 0, height_width[1], height_width[0]], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
    annotations = [
        detection_utils.transform_instance_annotations({**whole, "segmentation": mask}, transforms, height_width)
        for mask in masks
    ]
    return detection_utils.annotations_to_instances(annotations, height_width, mask_format="bitmask").gt_masks.tensor


def ignored_boxes(
    annotations: Sequence[Annotation], transforms: T.TransformList, height_width: tuple[int, int]
) -> torch.Tensor:
    """Where a loss shall not take what it finds for background.

    Args:
        annotations: of a record; those with a true `ignored` count.
        transforms: what was done to the image.
        height_width: of the augmented image.

    Returns:
        (B, 4) float32, xyxy pixels of the augmented image, cut to it; a box outside of it is left out.
    """
    boxes = [
        BoxMode.convert(one["bbox"], one["bbox_mode"], BoxMode.XYXY_ABS) for one in annotations if one.get("ignored")
    ]
    if not boxes:
        return torch.zeros(0, 4)
    # detectron2 rounds boxes of whole numbers down when it resizes them.
    result = Boxes(torch.from_numpy(transforms.apply_box(np.array(boxes, dtype=np.float64))).float())
    result.clip(height_width)
    return result.tensor[result.nonempty()]
