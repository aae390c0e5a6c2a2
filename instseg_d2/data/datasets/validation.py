"""What can be wrong in a COCO json: every kind of problem, found at once and told in one line each."""

import math
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# kind -> (stops the use of the file, what to do). The order is the order of the report.
_ADVICE: dict[str, tuple[bool, str]] = {
    "missing-key": (True, "a COCO file is an object with the lists 'images', 'annotations' and 'categories'"),
    "bad-category": (True, "give every category an integer 'id' and a 'name'"),
    "duplicate-category-id": (True, "give every category an 'id' of its own"),
    "bad-image": (
        True,
        "give every image 'id' (all integers or all strings), 'file_name', 'height' and 'width' in pixels",
    ),
    "duplicate-image-id": (True, "give every image an 'id' of its own"),
    "missing-image-file": (True, "check `image_root` against the 'file_name' entries"),
    "bad-annotation": (True, "give every annotation an integer 'id', 'image_id', 'category_id' and 'bbox'"),
    "duplicate-annotation-id": (True, "number the annotations anew: evaluation looks them up by 'id'"),
    "unknown-image": (
        True,
        "remove these annotations, add their images, or drop them on loading with tolerate=('unknown-image',)",
    ),
    "unknown-category": (True, "use ids that 'categories' lists (the number 1 and the string '1' differ)"),
    "bad-box": (True, "'bbox' is [x, y, width, height] in pixels: four finite numbers, no negative size"),
    "bad-polygon": (
        True,
        "a polygon is [x1, y1, x2, y2, ...], 6 or more numbers, an even count; remove these, or, in a set "
        "for training alone, drop them on loading with tolerate=('bad-polygon',)",
    ),
    "bad-segmentation": (True, "'segmentation' is a list of polygons, or a run-length mask"),
    "bad-rle": (True, "a run-length mask is {'size': [height, width], 'counts': str or list of run lengths}"),
    "rle-size": (True, "encode the mask at the size of its image: 'size' is [height, width], not [width, height]"),
    "ignore-flag": (True, "detectron2's loader refuses 'ignore'; remove these annotations, or use 'iscrowd'"),
    "duplicate-category-name": (False, "give each category its own name, else their rows in the tables merge"),
    "annotation-id-zero": (False, "number from 1: COCO evaluation takes a match with annotation 0 for a miss"),
    "no-annotations": (False, "fine for inference; there is nothing to train or evaluate on"),
    "images-without-instances": (False, "fine; `filter_empty` of the train loader leaves them out or keeps them"),
    "zero-area-box": (False, "fine; they are left out of training"),
    "annotations-without-mask": (False, "fine for boxes; a mask loss needs 'segmentation'"),
    "no-evaluation-keys": (False, "add 'area' and 'iscrowd' (0 or 1): COCO evaluation stops without them"),
}


@dataclass(frozen=True)
class Problem:
    """One kind of problem in a COCO file.

    Attributes:
        kind: a short name, such as `"bad-polygon"`.
        count: how often it occurs.
        example: the first occurrence, with image id, annotation id and key where they apply.
        advice: what to do about it.
        fatal: whether the file cannot be used as it is; else it is a remark.
    """

    kind: str
    count: int
    example: str
    advice: str
    fatal: bool

    def __str__(self) -> str:
        times = f"{self.count} times, first: " if self.count > 1 else ""
        return f"{self.kind}: {times}{self.example} -> {self.advice}"


# Kinds that detectron2's loader survives, by leaving the annotations out.
TOLERABLE = frozenset({"bad-polygon", "unknown-image"})

Finding = tuple[str, str]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_image_id(value: Any) -> bool:
    return _is_integer(value) or isinstance(value, str)


def _are_numbers(values: list) -> bool:
    # Files hold tens of millions of coordinates: two passes in C instead of a test of each.
    return set(map(type, values)) <= {int, float} and math.isfinite(sum(values))


def _check_categories(categories: list) -> Iterator[Finding]:
    if not categories:
        yield "bad-category", "'categories' is empty"
    ids, names = set(), set()
    for position, category in enumerate(categories):
        if not isinstance(category, dict) or not _is_integer(category.get("id")) or "name" not in category:
            yield "bad-category", f"categories[{position}] is {_short(category)}"
            continue
        if category["id"] in ids:
            yield "duplicate-category-id", f"category id {category['id']!r} ('{category['name']}') occurs again"
        if category["name"] in names:
            yield "duplicate-category-name", f"'{category['name']}' is the name of category {category['id']!r} too"
        ids.add(category["id"])
        names.add(category["name"])


def _check_images(images: list, image_root: str | os.PathLike | None) -> Iterator[Finding]:
    if not images:
        yield "bad-image", "'images' is empty"
    ids = set()
    for position, image in enumerate(images):
        if not isinstance(image, dict) or not _is_image_id(image.get("id")):
            yield "bad-image", f"images[{position}] has no usable 'id': {_short(image)}"
            continue
        for key in ("file_name", "height", "width"):
            value = image.get(key)
            if not (isinstance(value, str) if key == "file_name" else _is_integer(value) and value > 0):
                found = f"{key!r} is {_short(image[key])}" if key in image else f"no {key!r}"
                yield "bad-image", f"image {image['id']!r}: {found}"
        if image["id"] in ids:
            yield "duplicate-image-id", f"image id {image['id']!r} (images[{position}]) occurs again"
        if ids and not isinstance(image["id"], type(next(iter(ids)))):
            yield "bad-image", f"image {image['id']!r}: 'id' is of another type than before"
            continue
        ids.add(image["id"])
        if image_root is not None and isinstance(image.get("file_name"), str):
            path = os.path.join(image_root, image["file_name"])
            if not os.path.isfile(path):
                yield "missing-image-file", f"image {image['id']!r}: no file {path}"


def _check_segmentation(segmentation: Any, image: dict, where: str) -> Iterator[Finding]:
    if isinstance(segmentation, dict):
        size, counts = segmentation.get("size"), segmentation.get("counts")
        if not isinstance(counts, (str, list)) or not isinstance(size, list) or len(size) != 2:
            yield "bad-rle", f"{where}: 'segmentation' is {_short(segmentation)}"
        elif size != (of_image := [image.get("height"), image.get("width")]):
            yield "rle-size", f"{where}: the mask is {size}, the image {of_image}"
        elif isinstance(counts, list) and sum(counts) != size[0] * size[1]:
            yield "bad-rle", f"{where}: 'counts' sum to {sum(counts)} of {size[0]} x {size[1]} pixels"
    elif isinstance(segmentation, list):
        for number, polygon in enumerate(segmentation):
            if not isinstance(polygon, list) or not _are_numbers(polygon):
                yield "bad-segmentation", f"{where}: 'segmentation'[{number}] is {_short(polygon)}"
            elif len(polygon) < 6 or len(polygon) % 2:
                yield "bad-polygon", f"{where}: 'segmentation'[{number}] has {len(polygon)} numbers"
    else:
        yield "bad-segmentation", f"{where}: 'segmentation' is {_short(segmentation)}"


def _check_box(box: Any, where: str) -> Iterator[Finding]:
    if not isinstance(box, list) or len(box) != 4 or not _are_numbers(box) or min(box[2:]) < 0:
        yield "bad-box", f"{where}: 'bbox' is {_short(box)}"
    elif min(box[2:]) == 0:
        yield "zero-area-box", f"{where}: 'bbox' is {box}"


def _check_annotations(annotations: list, images: dict, categories: set) -> Iterator[Finding]:
    ids = set()
    for position, annotation in enumerate(annotations):
        if not isinstance(annotation, dict):
            yield "bad-annotation", f"annotations[{position}] is {_short(annotation)}"
            continue
        missing = [key for key in ("id", "image_id", "category_id", "bbox") if key not in annotation]
        if missing or not _is_integer(annotation["id"]):
            wrong = f"no {', '.join(map(repr, missing))}" if missing else f"'id' is {_short(annotation['id'])}"
            yield "bad-annotation", f"annotations[{position}] (id {annotation.get('id')!r}): {wrong}"
            continue
        where = f"annotation {annotation['id']!r} of image {_short(annotation['image_id'])}"
        if annotation["id"] in ids:
            yield "duplicate-annotation-id", f"{where}: the id occurs again"
        ids.add(annotation["id"])
        if annotation["id"] == 0:
            yield "annotation-id-zero", where
        category = annotation["category_id"]
        if not _is_integer(category) or category not in categories:
            known = _short(sorted(categories))
            yield "unknown-category", f"{where}: category_id {_short(category)} is not in 'categories' {known}"
        if annotation.get("ignore"):
            yield "ignore-flag", f"{where}: 'ignore' is {_short(annotation['ignore'])}"
        yield from _check_box(annotation["bbox"], where)
        image = images.get(annotation["image_id"]) if _is_image_id(annotation["image_id"]) else None
        if image is None:
            yield "unknown-image", f"{where}: no image with this id"
        elif annotation.get("segmentation"):
            yield from _check_segmentation(annotation["segmentation"], image, where)
        else:
            yield "annotations-without-mask", where
        lacking = [key for key in ("area", "iscrowd") if key not in annotation]
        if lacking:
            yield "no-evaluation-keys", f"{where}: no {' and no '.join(map(repr, lacking))}"


def _findings(content: Any, image_root: str | os.PathLike | None) -> Iterator[Finding]:
    if not isinstance(content, dict):
        yield "missing-key", f"the top level is a {type(content).__name__}"
        return
    lists = {}
    for key in ("categories", "images", "annotations"):
        value = content.get(key)
        if isinstance(value, list):
            lists[key] = value
        elif key == "annotations" and key not in content:
            lists[key] = []
            yield "no-annotations", "the file has no 'annotations'"
        else:
            found = f"it has {_short(sorted(content))}" if key not in content else f"it is {_short(value)}"
            yield "missing-key", f"no list {key!r} at the top level; {found}"
    if len(lists) < 3:
        return
    yield from _check_categories(lists["categories"])
    yield from _check_images(lists["images"], image_root)
    images = {
        image["id"]: image for image in lists["images"] if isinstance(image, dict) and _is_image_id(image.get("id"))
    }
    categories = {
        category["id"]
        for category in lists["categories"]
        if isinstance(category, dict) and _is_integer(category.get("id"))
    }
    yield from _check_annotations(lists["annotations"], images, categories)
    used = {
        annotation["image_id"]
        for annotation in lists["annotations"]
        if isinstance(annotation, dict) and _is_image_id(annotation.get("image_id"))
    }
    for image in images:
        if image not in used:
            yield "images-without-instances", f"image {image!r}"


def validate_coco(content: Any, *, image_root: str | os.PathLike | None = None) -> list[Problem]:
    """Look for everything that would stop or surprise training and evaluation on a COCO file.

    Args:
        content: the parsed json.
        image_root: folder of the images; when given, every image file must exist.

    Returns:
        One `Problem` per kind, the fatal ones first; empty when there is nothing to say.
    """
    counts: Counter[str] = Counter()
    first: dict[str, str] = {}
    for kind, example in _findings(content, Path(image_root) if image_root is not None else None):
        counts[kind] += 1
        first.setdefault(kind, example)
    return [
        Problem(kind, counts[kind], first[kind], advice, fatal)
        for kind, (fatal, advice) in _ADVICE.items()
        if kind in counts
    ]
