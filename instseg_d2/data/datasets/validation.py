"""What can be wrong in a COCO json: every kind of problem, found at once and told in one line each."""

import math
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

# kind -> (stops or falsifies training or evaluation, what to do).
Advice = Mapping[str, tuple[bool, str]]

# The order is the order of the report.
ADVICE: dict[str, tuple[bool, str]] = {
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
        fatal: whether it stops or falsifies training or evaluation; else it is a remark.
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

# A kind and where it was met.
Finding = tuple[str, str]


def summarise(findings: Iterable[Finding], advice: Advice) -> list[Problem]:
    """One `Problem` per kind, in the order of `advice`."""
    counts: Counter[str] = Counter()
    first: dict[str, str] = {}
    for kind, example in findings:
        counts[kind] += 1
        first.setdefault(kind, example)
    return [
        Problem(kind, counts[kind], first[kind], what, fatal) for kind, (fatal, what) in advice.items() if counts[kind]
    ]


def is_sound(findings: Iterable[Finding], advice: Advice = ADVICE) -> bool:
    """Whether there is nothing but remarks."""
    return not any(advice[kind][0] for kind, _ in findings)


def short(value: Any) -> str:
    """How a value is shown in a message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def list_of(content: Any, key: str) -> list:
    """A list of the json's top level; empty where there is none."""
    value = content.get(key) if isinstance(content, dict) else None
    return value if isinstance(value, list) else []


def is_integer(value: Any) -> bool:
    """An int of json; Python counts truth values as such too."""
    return isinstance(value, int) and not isinstance(value, bool)


def _is_image_id(value: Any) -> bool:
    return is_integer(value) or isinstance(value, str)


def _are_numbers(values: list) -> bool:
    # Files hold tens of millions of coordinates: two passes in C instead of a test of each.
    return set(map(type, values)) <= {int, float} and math.isfinite(sum(values))


def _has_name(category: dict) -> bool:
    return isinstance(category.get("name"), str)


def check_categories(categories: list) -> Iterator[Finding]:
    """Ids and names of the list `categories`."""
    if not categories:
        yield "bad-category", "'categories' is empty"
    ids, names = set(), set()
    for position, category in enumerate(categories):
        if not isinstance(category, dict) or not is_integer(category.get("id")) or not _has_name(category):
            yield "bad-category", f"categories[{position}] is {short(category)}"
            continue
        if category["id"] in ids:
            yield "duplicate-category-id", f"category id {category['id']!r} ('{category['name']}') occurs again"
        if category["name"] in names:
            yield "duplicate-category-name", f"'{category['name']}' is the name of category {category['id']!r} too"
        ids.add(category["id"])
        names.add(category["name"])


def category_ids(categories: list) -> set[int]:
    """The usable ids of the list `categories`."""
    return {entry["id"] for entry in categories if isinstance(entry, dict) and is_integer(entry.get("id"))}


def check_image(image: Any, position: int) -> Iterator[Finding]:
    """One entry of `images`, apart from the others."""
    if not isinstance(image, dict) or not _is_image_id(image.get("id")):
        yield "bad-image", f"images[{position}] has no usable 'id': {short(image)}"
        return
    for key in ("file_name", "height", "width"):
        value = image.get(key)
        if not (isinstance(value, str) if key == "file_name" else is_integer(value) and value > 0):
            found = f"{key!r} is {short(image[key])}" if key in image else f"no {key!r}"
            yield "bad-image", f"image {image['id']!r}: {found}"


def _check_images(images: list, image_root: str | os.PathLike | None) -> Iterator[Finding]:
    if not images:
        yield "bad-image", "'images' is empty"
    ids = set()
    for position, image in enumerate(images):
        yield from check_image(image, position)
        if not isinstance(image, dict) or not _is_image_id(image.get("id")):
            continue
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


def _run_lengths(counts: str | list[int]) -> np.ndarray | None:
    """Run lengths of a mask, from COCO's text form too; None if the text is not of that form.

    In the text each number is written in groups of five bits, low ones first, as characters from '0' on; bit 6 says
    that more follow, and the last group brings the sign. From the fourth on, a number is the difference to the run
    before the last.
    """
    if isinstance(counts, list):
        return np.asarray(counts) if all(map(is_integer, counts)) else None
    codes = np.frombuffer(counts.encode(), np.uint8).astype(np.int64) - ord("0")
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        return None
    last = np.flatnonzero(codes & 32 == 0)
    start = np.concatenate([[0], last[:-1] + 1])
    if (last - start).max() > 6:  # more than 35 bits
        return None
    shifts = 5 * (np.arange(len(codes)) - np.repeat(start, last - start + 1))
    runs = np.add.reduceat((codes & 31) << shifts, start)
    runs = np.where(codes[last] & 16, runs - (1 << (shifts[last] + 5)), runs)
    for lane in (1, 2):
        runs[lane::2] = np.cumsum(runs[lane::2])
    return runs


def _check_rle(mask: dict, where: str, key: str, height_width: list) -> Iterator[Finding]:
    size, counts = mask.get("size"), mask.get("counts")
    if not isinstance(counts, (str, list)) or not isinstance(size, list) or len(size) != 2:
        yield "bad-rle", f"{where}: {key!r} is {short(mask)}"
    elif size != height_width:
        yield "rle-size", f"{where}: the mask is {size}, the image {height_width}"
    elif (runs := _run_lengths(counts)) is None or (len(runs) and runs.min() < 0):
        yield "bad-rle", f"{where}: 'counts' is {short(counts)}"
    elif runs.sum() != size[0] * size[1]:
        yield "bad-rle", f"{where}: 'counts' sum to {runs.sum()} of {size[0]} x {size[1]} pixels"


def check_segmentation(
    segmentation: Any, height_width: list, where: str, key: str = "segmentation"
) -> Iterator[Finding]:
    """The form of one mask of an image: polygons or run lengths.

    Args:
        segmentation: what the json has.
        height_width: of the image.
        where: the annotation, for the message.
        key: that holds the mask, for the message.
    """
    if isinstance(segmentation, dict):
        yield from _check_rle(segmentation, where, key, height_width)
    elif isinstance(segmentation, list):
        for number, polygon in enumerate(segmentation):
            if not isinstance(polygon, list) or not _are_numbers(polygon):
                yield "bad-segmentation", f"{where}: {key!r}[{number}] is {short(polygon)}"
            elif len(polygon) < 6 or len(polygon) % 2:
                yield "bad-polygon", f"{where}: {key!r}[{number}] has {len(polygon)} numbers"
    else:
        yield "bad-segmentation", f"{where}: {key!r} is {short(segmentation)}"


def check_box(box: Any, where: str) -> Iterator[Finding]:
    """The form of one `bbox`."""
    if not isinstance(box, list) or len(box) != 4 or not _are_numbers(box) or min(box[2:]) < 0:
        yield "bad-box", f"{where}: 'bbox' is {short(box)}"
    elif min(box[2:]) == 0:
        yield "zero-area-box", f"{where}: 'bbox' is {box}"


def check_category_of(annotation: dict, categories: Collection[int], where: str) -> Iterator[Finding]:
    """Whether an annotation's category is one of the file's."""
    category = annotation["category_id"]
    if not is_integer(category) or category not in categories:
        known = short(sorted(categories))
        yield "unknown-category", f"{where}: category_id {short(category)} is not in 'categories' {known}"


def check_annotation(annotation: Any, position: int, images: dict, categories: Collection[int]) -> Iterator[Finding]:
    """One entry of `annotations`, apart from the others.

    Args:
        annotation: what the json has.
        position: in the list, for the message.
        images: those of the file, by id.
        categories: ids.
    """
    if not isinstance(annotation, dict):
        yield "bad-annotation", f"annotations[{position}] is {short(annotation)}"
        return
    missing = [key for key in ("id", "image_id", "category_id", "bbox") if key not in annotation]
    if missing or not is_integer(annotation["id"]):
        wrong = f"no {', '.join(map(repr, missing))}" if missing else f"'id' is {short(annotation['id'])}"
        yield "bad-annotation", f"annotations[{position}] (id {annotation.get('id')!r}): {wrong}"
        return
    where = place(annotation)
    if annotation["id"] == 0:
        yield "annotation-id-zero", where
    yield from check_category_of(annotation, categories, where)
    if annotation.get("ignore"):
        yield "ignore-flag", f"{where}: 'ignore' is {short(annotation['ignore'])}"
    yield from check_box(annotation["bbox"], where)
    image = images.get(annotation["image_id"]) if _is_image_id(annotation["image_id"]) else None
    if image is None:
        yield "unknown-image", f"{where}: no image with this id"
    elif annotation.get("segmentation"):
        size = [image.get("height"), image.get("width")]
        yield from check_segmentation(annotation["segmentation"], size, where)
    else:
        yield "annotations-without-mask", where
    lacking = [key for key in ("area", "iscrowd") if key not in annotation]
    if lacking:
        yield "no-evaluation-keys", f"{where}: no {' and no '.join(map(repr, lacking))}"


def place(annotation: dict) -> str:
    """How an annotation of an image is called in a message."""
    return f"annotation {annotation['id']!r} of image {short(annotation.get('image_id'))}"


def check_annotation_ids(annotations: list, where: Callable[[dict], str]) -> Iterator[Finding]:
    """Whether every annotation has an id of its own; `where` names an annotation."""
    ids = set()
    for annotation in annotations:
        if isinstance(annotation, dict) and is_integer(annotation.get("id")):
            if annotation["id"] in ids:
                yield "duplicate-annotation-id", f"{where(annotation)}: the id occurs again"
            ids.add(annotation["id"])


def images_by_id(images: list) -> dict:
    """Entries of the list `images` that have a usable id."""
    return {image["id"]: image for image in images if isinstance(image, dict) and _is_image_id(image.get("id"))}


def _other_form(content: Any) -> str:
    """What a json that is no COCO file looks like; empty if it is not known."""
    first = content[0] if isinstance(content, list) and content else content
    if not isinstance(first, dict):
        return ""
    for key, form in (
        ("videos", "YouTube-VIS"),
        ("labels", "Scalabel (BDD100K)"),
        ("frames", "Scalabel (BDD100K)"),
        ("masklet", "SA-V"),
        ("regions", "COCOA as its authors publish it"),
        ("score", "COCO results, not ground truth"),
    ):
        if key in first:
            return f" (it looks like {form})"
    return ""


def _findings(content: Any, image_root: str | os.PathLike | None) -> Iterator[Finding]:
    if not isinstance(content, dict):
        yield "missing-key", f"the top level is a {type(content).__name__}{_other_form(content)}"
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
            found = f"it has {short(sorted(content))}" if key not in content else f"it is {short(value)}"
            yield "missing-key", f"no list {key!r} at the top level; {found}{_other_form(content)}"
    if len(lists) < 3:
        return
    yield from check_categories(lists["categories"])
    yield from _check_images(lists["images"], image_root)
    images, categories = images_by_id(lists["images"]), category_ids(lists["categories"])
    for position, annotation in enumerate(lists["annotations"]):
        yield from check_annotation(annotation, position, images, categories)
    yield from check_annotation_ids(lists["annotations"], place)
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
    return summarise(_findings(content, Path(image_root) if image_root is not None else None), ADVICE)
