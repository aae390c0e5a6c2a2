"""A COCO set written anew with objects pasted over the instances of its images; see `PasteOcclusion`."""

import itertools
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detectron2.data import detection_utils
from tqdm import tqdm

from .cutouts import Annotation, Record, explained
from .datasets import read_coco_json, validate_coco
from .datasets.coco_occ import annotations_by_image
from .errors import DatasetError
from .occlusion_paste import PasteOcclusion
from .synthetic.folders import check_target, run_all, whole_folder

ANNOTATION_FILE = "annotations.json"
IMAGE_FOLDER = "images"

_GENERATOR = "occlusion_paste"
# What OpenCV writes.
_WRITABLE = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True)
class PasteStatistics:
    """What was written.

    Attributes:
        images: number of images.
        changed: images with a paste.
        pasted: objects that were pasted.
        dropped: instances that are no longer annotated, because next to nothing of them is visible.
        instances: annotations of the new set, with the pasted ones.
    """

    images: int
    changed: int
    pasted: int
    dropped: int
    instances: int

    def __str__(self) -> str:
        return (
            f"{self.images} images, {self.changed} of them with pastes; {self.instances} instances, {self.pasted} of "
            f"them pasted; {self.dropped} left out, as they are covered"
        )


class _Source:
    """A COCO file as records, one an image, and the instances to cut out of them."""

    def __init__(self, json_file: str, image_root: str, paste: PasteOcclusion):
        self.content = _read(json_file)
        per_image = annotations_by_image(self.content)
        self.records = [
            {
                "file_name": os.path.join(image_root, image["file_name"]),
                "image_id": image["id"],
                "height": image["height"],
                "width": image["width"],
                "annotations": per_image[image["id"]],
            }
            for image in self.content["images"]
        ]
        self.pool = paste.pool(self.records)


# One file at a time: a worker process reads it for the first of its images.
_source = lru_cache(maxsize=1)(_Source)


def _read(json_file: str) -> dict[str, Any]:
    """The parsed file, after all checks."""
    content = read_coco_json(json_file)
    fatal = [problem for problem in validate_coco(content) if problem.fatal]
    if fatal:
        listed = "\n".join(f"  {problem}" for problem in fatal)
        raise DatasetError(f"{json_file} cannot be used:\n{listed}")
    names: set[str] = set()
    for image in content["images"]:
        path = Path(image["file_name"])
        if path.is_absolute() or ".." in path.parts or path.suffix.lower() not in _WRITABLE:
            raise DatasetError(
                f"{json_file}: image {image['id']!r} has the 'file_name' {image['file_name']!r}; it must be relative "
                f"to the image folder, inside of it, and end in one of {', '.join(sorted(_WRITABLE))}"
            )
        if path.as_posix() in names:
            raise DatasetError(
                f"{json_file}: the 'file_name' {image['file_name']!r} of image {image['id']!r} is that of another "
                "image too; give every image a file of its own"
            )
        names.add(path.as_posix())
    return content


def _read_image(record: Record) -> np.ndarray:
    image = detection_utils.read_image(record["file_name"], format="BGR")
    detection_utils.check_image_size(record, image)
    return image


def _write_one(
    index: int, *, json_file: str, image_root: str, folder: Path, paste: PasteOcclusion, seed: int
) -> tuple[list[Annotation], int]:
    """Write one image; its annotations, and the number of pastes, which come last among them."""
    source = _source(json_file, image_root, paste)
    record, target = source.records[index], folder / source.content["images"][index]["file_name"]
    rng = np.random.default_rng([seed, index])
    with explained(record, "cannot paste into {}"):
        image, annotations, done = paste(
            _read_image(record), record["annotations"], lambda: source.pool.draw(rng, _read_image), rng
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    if done:
        target.write_bytes(cv2.imencode(target.suffix, image)[1].tobytes())
    else:
        shutil.copyfile(record["file_name"], target)
    return [{**one, "image_id": record["image_id"]} for one in annotations], done


def write_pasted_set(
    json_file: str | os.PathLike,
    image_root: str | os.PathLike,
    out: str | os.PathLike,
    *,
    paste: PasteOcclusion,
    seed: int = 0,
    workers: int = 0,
    overwrite: bool = False,
    progress: bool = True,
) -> PasteStatistics:
    """Write `out/images/` and `out/annotations.json`: every image of a COCO set, with objects pasted into some.

    The objects come from the same set. Images without a paste are copied, and keep their annotations as they are; in
    the others annotations keep the entries that `cover` keeps. Ids stay, those of pasted instances follow the greatest
    one. The set appears under its name when it is complete; an interrupted run leaves nothing.

    Args:
        json_file: the annotations.
        image_root: the folder that `file_name` entries are relative to.
        out: folder to write; must be absent or empty, unless `overwrite`.
        paste: what is pasted, and where.
        seed: of the choices, 0 or more. Image k of the file depends on (seed, k) alone.
        workers: processes; 0 or 1 works in this one.
        overwrite: replace a folder that this function wrote.
        progress: show a progress bar on stderr.

    Raises:
        DatasetError: the file cannot be used, has no mask to cut by, or `out` is in the way.
        SampleError: an image or a mask cannot be read; the message names it.
    """
    json_file, image_root, out = os.fspath(json_file), os.fspath(image_root), Path(out)
    if seed < 0:
        raise DatasetError(f"seed={seed}: must be 0 or more")
    check_target(out, overwrite, marker=ANNOTATION_FILE, generator=_GENERATOR)
    # The file may have changed since the last call.
    _source.cache_clear()
    source = _source(json_file, image_root, paste)
    with whole_folder(out) as fresh:
        task = partial(
            _write_one, json_file=json_file, image_root=image_root, folder=fresh / IMAGE_FOLDER, paste=paste, seed=seed
        )
        count = len(source.records)
        written = list(tqdm(run_all(task, count, workers), "pasting", count, unit="image", disable=not progress))
        annotations = _numbered(source.content["annotations"], [listed for listed, _ in written])
        how = {"generator": _GENERATOR, "source": json_file, "seed": seed, "settings": asdict(paste)}
        content = {**source.content, "annotations": annotations, "info": {**_info(source.content), **how}}
        (fresh / ANNOTATION_FILE).write_text(json.dumps(content))
    _source.cache_clear()
    pasted = sum(done for _, done in written)
    return PasteStatistics(
        images=count,
        changed=sum(done > 0 for _, done in written),
        pasted=pasted,
        dropped=len(source.content["annotations"]) + pasted - len(annotations),
        instances=len(annotations),
    )


def _info(content: dict[str, Any]) -> dict[str, Any]:
    return content["info"] if isinstance(content.get("info"), dict) else {}


def _numbered(before: Sequence[Annotation], written: Sequence[list[Annotation]]) -> list[Annotation]:
    """All annotations in one list, with new ids for the pasted ones, whose ids are only those of one image each.

    Args:
        before: of the whole file.
        written: one list an image.
    """
    known = {(one["image_id"], one["id"]) for one in before}
    numbers = itertools.count(1 + max((one["id"] for one in before), default=0))
    result: list[Annotation] = []
    for annotations in written:
        fresh = {one["id"]: next(numbers) for one in annotations if (one["image_id"], one["id"]) not in known}
        for one in annotations:
            numbered = {**one, "id": fresh.get(one["id"], one["id"])}
            if "occluders" in one:
                numbered["occluders"] = [fresh.get(number, number) for number in one["occluders"]]
            result.append(numbered)
    return result
