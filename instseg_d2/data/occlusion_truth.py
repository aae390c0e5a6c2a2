"""What an object that comes before all others makes of the annotations of an image: visible masks, boxes, occluders."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.structures import BoxMode
from pycocotools import mask as mask_util

from .datasets.amodal import MaskKind
from .run_lengths import decode_mask, encode_mask, run_lengths

Annotation = dict[str, Any]

# Entries of an annotation that stay true, or are made true again, when something comes before the object. A list of
# what stays, not of what goes: data sets keep figures of masks under many names.
_KEPT = (
    *("id", "image_id", "instance_id", "category_id", "name", "is_stuff", "iscrowd", "has_mask"),
    *("bbox", "bbox_mode", "area", "segmentation", "amodal_segmentation", "visible_segmentation"),
    *("depth", "covered", "occluders"),
)
# What a pasted instance has of the annotation that it was cut out by.
_COPIED = ("category_id", "name", "is_stuff", "bbox_mode")


def visible_mask(annotation: Annotation, masks: MaskKind = "visible") -> Any:
    """The mask of what is seen of an instance, in one of COCO's forms; None where it is not known or hidden.

    Args:
        annotation: of a record or a COCO file.
        masks: which masks `segmentation` entries are.
    """
    if not annotation.get("has_mask", True):
        return None
    segmentation = annotation.get("segmentation") if masks == "visible" else None
    return annotation.get("visible_segmentation") or segmentation or None


def cutting_mask(annotation: Annotation, masks: MaskKind = "visible", most_covered: float = 1.0) -> Any:
    """What an instance may be cut out by: its visible mask, unless more of it is hidden than `most_covered`.

    Args:
        annotation: of a record or a COCO file.
        masks: which masks `segmentation` entries are.
        most_covered: limit of `covered`; an instance that does not have this entry counts as whole.
    """
    return visible_mask(annotation, masks) if (annotation.get("covered") or 0) <= most_covered else None


class _Front:
    """The object that comes before all others: its mask in the image, and its id."""

    def __init__(self, mask: np.ndarray, identity: int):
        self.mask = mask
        self.encoded = encode_mask(mask)
        self.identity = identity

    def meets(self, encoded: dict[str, Any]) -> bool:
        return mask_util.area(mask_util.merge([self.encoded, encoded], intersect=True)) > 0


def cover(
    annotations: Sequence[Annotation],
    mask: np.ndarray,
    *,
    identity: int,
    masks: MaskKind = "visible",
    least_pixels: int = 1,
    kept_keys: Sequence[str] = (),
) -> list[Annotation]:
    """The annotations of an image after an object has come before all others.

    Visible masks lose what is behind it, with `area` and `bbox` of the pixels that are left where the mask is
    `segmentation`; amodal masks stay, `covered` follows. The object is the first of the `occluders` of every instance
    that it meets, and every `depth` is one greater. An instance whose mask is not known, or hidden by a supervision,
    keeps its box as it is: how much of it is left cannot be said.

    Entries that the object may have made false go from all annotations: those that are not named here, and
    `bg_object_segmentation`.

    Args:
        annotations: of a record or a COCO file; not changed.
        mask: (H, W) bool, of the object.
        identity: its id.
        masks: which masks `segmentation` entries are.
        least_pixels: an instance that the object leaves with fewer visible pixels is dropped.
        kept_keys: further entries to keep.
    """
    front = _Front(mask, identity)
    kept = {*_KEPT, *kept_keys}
    result, dropped = [], set()
    for annotation in annotations:
        behind = _behind(annotation, front, masks, least_pixels)
        if behind is None:
            dropped.add(annotation.get("id"))
        else:
            result.append({key: value for key, value in behind.items() if key in kept})
    for one in result if dropped else ():
        if "occluders" in one:
            one["occluders"] = [number for number in one["occluders"] if number not in dropped]
    return result


def _behind(annotation: Annotation, front: _Front, masks: MaskKind, least_pixels: int) -> Annotation | None:
    """One annotation with the object before it; None when too little of the instance is left."""
    result = dict(annotation)
    if result.get("depth") is not None:
        result["depth"] += 1
    seen = visible_mask(annotation, masks)
    if seen is None:
        return result
    before = run_lengths(seen, *front.mask.shape)
    whole = annotation.get("amodal_segmentation") or (annotation.get("segmentation") if masks == "amodal" else None)
    whole = run_lengths(whole, *front.mask.shape) if whole else None
    if not front.meets(before if whole is None else whole):
        return result
    if "occluders" in result:
        result["occluders"] = [front.identity, *result["occluders"]]
    left = decode_mask(before, *front.mask.shape) & ~front.mask
    pixels = int(np.count_nonzero(left))
    if pixels == mask_util.area(before):
        return result
    if pixels < max(least_pixels, 1):
        return None
    return _with_visible(result, encode_mask(left), masks, before=int(mask_util.area(before)), whole=whole)


def _with_visible(
    annotation: Annotation, encoded: dict[str, Any], masks: MaskKind, *, before: int, whole: dict[str, Any] | None
) -> Annotation:
    """The annotation with another visible mask.

    Args:
        annotation: changed in place.
        encoded: the visible mask.
        masks: which masks `segmentation` entries are.
        before: pixels of the visible mask that it takes the place of.
        whole: the amodal mask, if there is one.
    """
    if masks == "visible":
        annotation |= {"segmentation": encoded, "bbox": _box(encoded, annotation)}
        if "area" in annotation:
            annotation["area"] = int(mask_util.area(encoded))
    if annotation.get("visible_segmentation"):
        annotation["visible_segmentation"] = encoded
    if annotation.get("covered") is not None:
        if whole is not None:
            seen = mask_util.area(mask_util.merge([encoded, whole], intersect=True))
            covered = 1 - float(seen) / float(mask_util.area(whole))
        else:
            covered = 1 - (1 - annotation["covered"]) * float(mask_util.area(encoded)) / before
        annotation["covered"] = round(covered, 4)
    return annotation


def _box(encoded: dict[str, Any], like: Annotation) -> list[float]:
    """Box of a mask, in the mode of an annotation; that of COCO files, xywh, if it does not say."""
    box = mask_util.toBbox(encoded).tolist()
    return BoxMode.convert(box, BoxMode.XYWH_ABS, like.get("bbox_mode", BoxMode.XYWH_ABS))


def nearest_annotation(
    mask: np.ndarray, source: Annotation, *, identity: int, kept_keys: Sequence[str] = ()
) -> Annotation:
    """The annotation of an object that has come before all others, with the kinds of entries that its source has.

    What can be seen of it counts as the whole.

    Args:
        mask: (H, W) bool, in the image.
        source: the annotation that the object was cut out by.
        identity: its id.
        kept_keys: further entries to copy from the source.
    """
    encoded = encode_mask(mask)
    truth = {
        "area": int(mask_util.area(encoded)),
        "amodal_segmentation": encoded,
        "visible_segmentation": encoded,
        "covered": 0.0,
        "depth": 0,
        "occluders": [],
        "has_mask": True,
    }
    return {
        "id": identity,
        "iscrowd": 0,
        **{key: source[key] for key in (*_COPIED, *kept_keys) if key in source},
        "bbox": _box(encoded, source),
        "segmentation": encoded,
        **{key: value for key, value in truth.items() if key in source},
    }
