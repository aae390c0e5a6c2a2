"""COCO data sets by name: read and checked at once, then served by detectron2's own loader and catalogs."""

import difflib
import json
import logging
import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.utils.file_io import PathManager

from ..errors import DatasetError
from .validation import TOLERABLE, Problem, validate_coco

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CocoDataset:
    """A registered COCO data set.

    Attributes:
        name: its name in detectron2's catalogs.
        json_file, image_root: its paths.
        num_classes: number of categories, what `num_classes` of a model should be.
        thing_classes: category names in the order of the model's class indices (by category id).
        num_images: number of images in the json.
    """

    name: str
    json_file: str
    image_root: str
    num_classes: int
    thing_classes: tuple[str, ...]
    num_images: int


@dataclass(frozen=True)
class _Registration:
    dataset: CocoDataset
    extra_annotation_keys: tuple[str, ...]
    stamp: tuple[float, int] | None


_registered: dict[str, _Registration] = {}


def _stamp(json_file: str) -> tuple[float, int] | None:
    """What tells one state of a file from another; None when it is gone."""
    try:
        status = os.stat(PathManager.get_local_path(json_file))
    except OSError:
        return None
    return status.st_mtime, status.st_size


def _nearby(path: Path, pattern: str) -> str:
    """What is there instead of a missing file: similar files of its folder, or the nearest folder that exists."""
    folder = path.parent
    while not folder.is_dir():
        folder = folder.parent
    if folder != path.parent:
        entries = sorted(entry.name for entry in folder.iterdir())
        shown = ", ".join(entries[:8]) + (", ..." if len(entries) > 8 else "")
        return f"the folder {path.parent} does not exist; {folder} has: {shown or 'nothing'}"
    found: Iterable[Path] = (entry for glob in (pattern, f"*/{pattern}") for entry in folder.glob(glob))
    files = sorted(entry.relative_to(folder).as_posix() for entry in islice(found, 2000))
    near = difflib.get_close_matches(path.name, files, n=5, cutoff=0.3) or files[:5]
    return f"{folder} has: {', '.join(near)}" if near else f"{folder} has no {pattern} file"


def read_coco_json(json_file: str | os.PathLike) -> Any:
    """Parse a json file.

    Raises:
        DatasetError: it is missing (the message shows what is there instead) or not whole.
    """
    try:
        with PathManager.open(os.fspath(json_file), "r", encoding="utf-8") as file:
            text = file.read()
    except (FileNotFoundError, NotADirectoryError):
        hint = _nearby(Path(json_file).absolute(), "*.json")
        raise DatasetError(f"no annotation file {json_file}\n  {hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"cannot read {json_file}: {error}") from error
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        cut = error.pos >= len(text.rstrip()) - 1 or "Unterminated" in error.msg
        cause = "the file is cut off; copy or download it again" if cut else "repair the file at that place"
        raise DatasetError(
            f"{json_file} is not valid json: {error.msg} at line {error.lineno}, column {error.colno} "
            f"(character {error.pos} of {len(text)}); {cause}"
        ) from None


def check_image_root(file_name: str, first: str, json_file: str, image_root: str) -> None:
    """The first image must lie where the json says; a wrong root is the usual mistake.

    Args:
        file_name: of the first image, as the json has it.
        first: what the image is called in a message.
        json_file: the annotations.
        image_root: the folder of the images.

    Raises:
        DatasetError: it does not; the message shows what is there instead.
    """
    path = Path(image_root) / file_name
    if not PathManager.isfile(str(path)):
        raise DatasetError(
            f"no image {path} ({first}, the first of {json_file})\n"
            f"  {_nearby(path.absolute(), '*' + path.suffix)}\n"
            "  `image_root` joined with 'file_name' must give the path of an image"
        )


def raise_fatal(problems: Sequence[Problem], json_file: str, tolerate: Collection[str] = ()) -> None:
    """Raise the fatal problems of a file in one error, or log the remarks in one message.

    Raises:
        DatasetError: a problem is fatal, and not of the kinds to tolerate.
    """
    fatal = [problem for problem in problems if problem.fatal and problem.kind not in tolerate]
    if fatal:
        raise DatasetError(f"{json_file} cannot be used:\n" + "\n".join(f"  {problem}" for problem in fatal))
    if problems:
        logger.info("%s:\n%s", json_file, "\n".join(f"  {problem}" for problem in problems))


def _checked_content(json_file: str, image_root: str, tolerate: Collection[str] = ()) -> dict:
    """The parsed json, after all checks. Remarks are logged in one message, fatal problems raised in one error."""
    unknown = set(tolerate) - TOLERABLE
    if unknown:
        raise DatasetError(f"tolerate={sorted(unknown)}: only {sorted(TOLERABLE)} can be tolerated")
    content = read_coco_json(json_file)
    raise_fatal(validate_coco(content), json_file, tolerate)
    for image in content["images"][:1]:
        check_image_root(image["file_name"], f"image {image['id']!r}", json_file, image_root)
    return content


def load_checked(json_file: str, image_root: str, name: str, extra_annotation_keys: Sequence[str] = ()) -> list[dict]:
    """Records in detectron2's format, after the checks of `register_coco`; sets the class names of `name`.

    Every annotation keeps its `id`, so that later errors can name it, and the extra keys that it has.

    Raises:
        DatasetError: see `register_coco`; also when the metadata of `name` promises other class names.
    """
    content = _checked_content(json_file, image_root)
    found = _describe(name, json_file, image_root, content).thing_classes
    expected = MetadataCatalog.get(name).get("thing_classes")
    if expected is not None and tuple(expected) != found:
        raise DatasetError(
            f"{json_file}: the categories of '{name}' are {', '.join(expected)}, but the file has {', '.join(found)}; "
            "register it under a name of its own with register_coco"
        )
    return load_coco_json(json_file, image_root, name, ["id", *extra_annotation_keys])


def _describe(name: str, json_file: str, image_root: str, content: dict) -> CocoDataset:
    categories = sorted(content["categories"], key=lambda category: category["id"])
    return CocoDataset(
        name=name,
        json_file=json_file,
        image_root=image_root,
        num_classes=len(categories),
        thing_classes=tuple(category["name"] for category in categories),
        num_images=len(content["images"]),
    )


def is_taken(name: str, json_file: str, image_root: str) -> bool:
    """Whether a name is registered already, with these very paths.

    Raises:
        DatasetError: it is, with other paths.
    """
    if name not in DatasetCatalog.list():
        return False
    there = MetadataCatalog.get(name)
    if (there.get("json_file"), there.get("image_root")) != (json_file, image_root):
        raise DatasetError(
            f"the name '{name}' is taken: json_file={there.get('json_file')}, "
            f"image_root={there.get('image_root')}; choose another name, or call "
            f"DatasetCatalog.remove('{name}') and MetadataCatalog.remove('{name}') first"
        )
    return True


def register_coco(
    name: str,
    json_file: str | os.PathLike,
    image_root: str | os.PathLike,
    *,
    extra_annotation_keys: Sequence[str] = (),
    tolerate: Collection[str] = (),
    **metadata: Any,
) -> CocoDataset:
    """Make a COCO json known to detectron2 under a name, after reading and checking it.

    The masks may be polygons, run lengths, or absent. Registering the same name with the same paths again does
    nothing, except when the file or the keys have changed: then the new state replaces the old one.

    Args:
        name: for `DatasetCatalog.get(name)` and configs.
        json_file: the annotations.
        image_root: the folder that the json's `file_name` entries are relative to.
        extra_annotation_keys: keys of the annotations to keep in the records, beyond COCO's own and `id`.
        tolerate: kinds of problems to accept, of `"bad-polygon"` and `"unknown-image"`; detectron2's loader leaves
            such polygons and annotations out. COCO evaluation reads the file itself, and stops at bad polygons.
        metadata: further entries for `MetadataCatalog`, such as `thing_colors`.

    Raises:
        DatasetError: the file is missing or broken (the message lists every kind of problem with its first
            occurrence), the images are not there, or the name is taken by other paths.
    """
    json_file, image_root = os.fspath(json_file), os.fspath(image_root)
    keys = tuple(extra_annotation_keys)
    taken = is_taken(name, json_file, image_root)
    if taken:
        known = _registered.get(name)
        if known and known.extra_annotation_keys == keys and known.stamp == _stamp(json_file):
            return known.dataset

    content = _checked_content(json_file, image_root, tolerate)
    dataset = _describe(name, json_file, image_root, content)
    ids = sorted(category["id"] for category in content["categories"])
    if taken and name not in _registered:
        return dataset
    if taken:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    DatasetCatalog.register(name, lambda: load_coco_json(json_file, image_root, name, ["id", *keys]))
    MetadataCatalog.get(name).set(
        json_file=json_file,
        image_root=image_root,
        evaluator_type="coco",
        thing_classes=list(dataset.thing_classes),
        # As loading the records sets it: without it evaluators take ids of categories for class indices.
        thing_dataset_id_to_contiguous_id={key: index for index, key in enumerate(ids)},
        **metadata,
    )
    _registered[name] = _Registration(dataset, keys, _stamp(json_file))
    return dataset
