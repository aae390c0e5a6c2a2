"""Annotations with the whole and the visible mask of each instance: their layouts, and their COCO form."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pycocotools import mask as mask_util

from .validation import (
    ADVICE,
    Finding,
    Problem,
    check_image,
    check_segmentation,
    images_by_id,
    is_integer,
    is_sound,
    place,
    short,
    summarise,
    validate_coco,
)

MaskKind = Literal["amodal", "visible"]

_LISTS = ("images", "annotations", "categories")

_ADVICE = {
    "no-amodal-mask": (True, "an amodal set needs the whole mask of every instance"),
    "no-visible-mask": (
        True,
        "an amodal set needs the visible mask beside the whole one; a file with one mask per instance is read by "
        "register_coco",
    ),
    "bad-order": (True, "give every annotation its place in the order of depth, an integer, or none at all"),
    "unknown-class": (True, "`classes` must name categories of the file"),
    "fully-hidden": (False, "fine; of these nothing is visible, so they are left out with masks='visible'"),
    "annotated-twice": (False, "fine; the first annotation of the image is used"),
    "unknown-occluder": (False, "fine; such pairs of 'depth_constraint' are left out"),
    **ADVICE,
}


@dataclass(frozen=True)
class Layout:
    """Where a format keeps what. Of several keys the first that an annotation has is read.

    Attributes:
        name: for messages.
        amodal, visible: keys of the masks.
        amodal_box, visible_box: keys of their boxes [x, y, width, height]; without one the mask's box is taken.
        order: key of the place in the order of depth.
        depth: from the orders of the annotations of an image to depths, 0 nearest.
        normalise: from the parsed file to COCO's lists `images`, `annotations`, `categories`, and what it found.
        where: names an annotation in messages.
    """

    name: str
    amodal: tuple[str, ...]
    visible: tuple[str, ...]
    amodal_box: tuple[str, ...]
    visible_box: tuple[str, ...]
    order: str
    depth: Callable[[Sequence[int]], list[int]]
    normalise: Callable[[Any], tuple[Any, list[Finding]]] = lambda content: (content, [])
    where: Callable[[dict], str] = place

    @property
    def replaced_keys(self) -> frozenset[str]:
        """Keys that the COCO form has under other names."""
        masks_and_boxes = {*self.amodal, *self.visible, *self.amodal_box, *self.visible_box}
        return frozenset(masks_and_boxes | {"area", "a_area", "i_area"})


def _first(annotation: dict, keys: Sequence[str]) -> str | None:
    return next((key for key in keys if annotation.get(key) is not None), None)


def _run_lengths(mask: list | dict, height: int, width: int) -> dict[str, Any]:
    """Compressed run lengths of polygons or of either form of run lengths; an empty list gives an empty mask."""
    if _is_polygons(mask):
        return mask_util.merge(mask_util.frPyObjects(mask, height, width))
    if not mask:
        return mask_util.encode(np.zeros((height, width), dtype=np.uint8, order="F"))
    return mask_util.frPyObjects(mask, height, width) if isinstance(mask["counts"], list) else mask


def _is_polygons(mask: list | dict) -> bool:
    return isinstance(mask, list) and len(mask) > 0


def _as_json(rle: dict[str, Any]) -> dict[str, Any]:
    counts = rle["counts"]
    return {"size": list(rle["size"]), "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts}


def _without_bad_polygons(mask: Any) -> Any:
    if not isinstance(mask, list):
        return mask
    return [part for part in mask if not isinstance(part, list) or (len(part) >= 6 and len(part) % 2 == 0)]


class _Conversion:
    """One pass over a file; collects what is wrong in it."""

    def __init__(self, layout: Layout, masks: MaskKind, tolerate: Collection[str]):
        self.layout = layout
        self.masks = masks
        self.tolerate = tolerate
        self.findings: list[Finding] = []

    def masks_of(self, annotation: dict, image: dict, where: str) -> dict[str, Any] | None:
        """The annotation's "amodal" and "visible" mask as the file has them; None when something is wrong."""
        keys = {kind: _first(annotation, getattr(self.layout, kind)) for kind in ("amodal", "visible")}
        if annotation.get("iscrowd") and keys["visible"] is None:
            # What of a crowd is hidden is not known; it is left out of training, and only ignored in evaluation.
            keys["visible"] = keys["amodal"]
        findings = [
            (f"no-{kind}-mask", f"{where}: no {' or '.join(map(repr, getattr(self.layout, kind)))}; {_has(annotation)}")
            for kind, key in keys.items()
            if key is None or (kind == "amodal" and not annotation[key])
        ]
        size = [image.get("height"), image.get("width")]
        found = {}
        for kind, key in keys.items() if not findings else ():
            found[kind] = annotation[key]
            if "bad-polygon" in self.tolerate:
                found[kind] = _without_bad_polygons(found[kind])
            findings += check_segmentation(found[kind], size, where, key)
        self.findings += findings
        return None if findings or not found["amodal"] else found

    def annotation(self, annotation: dict, image: dict) -> dict[str, Any] | None:
        """The COCO form of one annotation, without its depth; None to leave it out."""
        where = self.layout.where(annotation)
        found = self.masks_of(annotation, image, where)
        if found is None:
            return None
        height, width = image["height"], image["width"]
        rle = {kind: _run_lengths(mask, height, width) for kind, mask in found.items()}
        area = {kind: int(mask_util.area(mask)) for kind, mask in rle.items()}
        if not area["visible"]:
            self.findings.append(("fully-hidden", where))
            if self.masks == "visible":
                return None
        seen = int(mask_util.area(mask_util.merge([rle["amodal"], rle["visible"]], intersect=True)))
        stored = {kind: mask if _is_polygons(mask) else _as_json(rle[kind]) for kind, mask in found.items()}
        box = _first(annotation, getattr(self.layout, f"{self.masks}_box"))
        return {
            **{key: value for key, value in annotation.items() if key not in self.layout.replaced_keys},
            "iscrowd": annotation.get("iscrowd", 0),
            "bbox": annotation[box] if box else mask_util.toBbox(rle[self.masks]).tolist(),
            "area": area[self.masks],
            "segmentation": stored[self.masks],
            "amodal_segmentation": stored["amodal"],
            "visible_segmentation": stored["visible"],
            "covered": round(1 - seen / area["amodal"], 4) if area["amodal"] else 0.0,
        }

    def annotations(self, content: dict) -> list[dict[str, Any]]:
        """The COCO form of all annotations that can be used, without depths."""
        images = images_by_id(content["images"])
        unsound = {key for key, image in images.items() if not is_sound(check_image(image, 0))}
        converted = []
        for position, annotation in enumerate(content["annotations"]):
            if not isinstance(annotation, dict) or not is_integer(annotation.get("id")):
                self.findings.append(("bad-annotation", f"annotations[{position}] is {short(annotation)}"))
            elif (image_id := annotation.get("image_id")) not in images:
                if "unknown-image" not in self.tolerate:
                    self.findings.append(("unknown-image", f"{self.layout.where(annotation)}: no image with this id"))
            elif image_id not in unsound:
                converted.append(self.annotation(annotation, images[image_id]))
        return [annotation for annotation in converted if annotation is not None]

    def set_depths(self, annotations: list[dict]) -> None:
        """Write `depth` into annotations that have an order; all of a file must have one, or none."""
        key = self.layout.order
        if not any(key in annotation for annotation in annotations):
            return
        per_image: dict[Any, list[dict]] = {}
        for annotation in annotations:
            if is_integer(annotation.get(key)):
                per_image.setdefault(annotation["image_id"], []).append(annotation)
            else:
                found = f"{key!r} is {short(annotation[key])}" if key in annotation else f"no {key!r}"
                self.findings.append(("bad-order", f"{self.layout.where(annotation)}: {found}"))
        for group in per_image.values():
            depths = self.layout.depth([annotation[key] for annotation in group])
            for annotation, depth in zip(group, depths, strict=True):
                annotation["depth"] = depth


def _has(annotation: dict) -> str:
    return f"it has {', '.join(sorted(map(str, annotation)))}"


def _keep_classes(categories: list, classes: Sequence[str], annotations: list[dict]) -> tuple[list, list[Finding]]:
    """The categories without those that are not named and that no annotation uses; and the named ones that lack."""
    used = [annotation.get("category_id") for annotation in annotations]
    named = {category.get("name"): category for category in categories if isinstance(category, dict)}
    lacking = [("unknown-class", f"no category '{name}' among {list(named)}") for name in classes if name not in named]
    unused = [category for name, category in named.items() if name not in classes and category.get("id") not in used]
    return [category for category in categories if category not in unused], lacking


def to_coco(
    content: Any,
    layout: Layout,
    *,
    masks: MaskKind = "amodal",
    classes: Sequence[str] | None = None,
    tolerate: Collection[str] = (),
) -> tuple[Any, list[Problem]]:
    """The COCO form of a parsed amodal file, and everything that is wrong with the file.

    Polygons stay polygons, run lengths become compressed ones. `amodal_segmentation`, `visible_segmentation`,
    `covered` and `depth` are added to the annotations; their other keys stay.

    Args:
        content: as it was read.
        layout: of the file.
        masks: which masks `segmentation`, `bbox` and `area` are those of.
        classes: when given, the file must have these categories; others are left out unless an annotation uses them.
        tolerate: see `register_coco`; such polygons and annotations are left out.
    """
    content, findings = layout.normalise(content)
    if not isinstance(content, dict) or any(not isinstance(content.get(key), list) for key in _LISTS):
        return content, validate_coco(content)
    conversion = _Conversion(layout, masks, tolerate)
    conversion.findings += findings
    converted = conversion.annotations(content)
    conversion.set_depths(converted)
    result = {**content, "annotations": converted}
    if classes is not None:
        result["categories"], lacking = _keep_classes(content["categories"], classes, converted)
        conversion.findings += lacking
    return result, [*summarise(conversion.findings, _ADVICE), *validate_coco(result)]
