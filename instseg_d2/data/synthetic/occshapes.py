"""OccShapes: generated images of overlapping objects, written as a COCO folder with exact visible masks."""

import json
import logging
import multiprocessing
import os
import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as mask_util
from tqdm import tqdm

from ..errors import DatasetError
from .outlines import CATEGORIES
from .scene import Rendering, Scene, render, sample_scene

logger = logging.getLogger(__name__)

# Raised whenever the same seed gives other pictures or other truth than before.
GENERATOR_VERSION = "1"

ANNOTATION_FILE = "annotations.json"
IMAGE_FOLDER = "images"
CONTACT_SHEET_FILE = "contact_sheet.png"

# An object with fewer visible pixels than this, at 128 x 128, is drawn but not annotated.
_LEAST_VISIBLE_SHARE = 24 / 128**2

# PNG: exact pixels; level 1 is as fast as JPEG for pictures this small.
_PNG = (cv2.IMWRITE_PNG_COMPRESSION, 1)


@dataclass(frozen=True)
class OcclusionStatistics:
    """How crowded a set is. Shares are of the annotated instances.

    Attributes:
        images: number of images.
        instances: number of annotated instances.
        hidden: objects that were drawn but left out, because next to nothing of them is visible.
        covered_20: share of instances whose amodal area is hidden to 20 % or more.
        covered_50: the same for 50 % or more.
        mean_covered: mean hidden share.
        same_category_contact: share of instances whose box overlaps that of another one of their category.
        per_category: instances of each category by name.
    """

    images: int
    instances: int
    hidden: int
    covered_20: float
    covered_50: float
    mean_covered: float
    same_category_contact: float
    per_category: dict[str, int]

    def __str__(self) -> str:
        counts = ", ".join(f"{name} {count}" for name, count in self.per_category.items())
        return (
            f"{self.images} images, {self.instances} instances "
            f"({self.instances / max(self.images, 1):.1f} per image), {self.hidden} hidden objects left out\n"
            f"covered by 20 % or more: {self.covered_20:.1%}; by 50 % or more: {self.covered_50:.1%}; "
            f"mean: {self.mean_covered:.1%}; box overlaps one of the same category: "
            f"{self.same_category_contact:.1%}\n{counts}"
        )


def occshapes_scene(seed: int, index: int, size: int = 128) -> Scene:
    """Scene number `index` of the set with this seed; it depends on nothing else."""
    return sample_scene(np.random.default_rng([seed, index]), size, size)


def annotated(rendering: Rendering) -> np.ndarray:
    """Indices of the objects that get an annotation, nearest first: those with enough visible pixels; (n,) int64."""
    _, height, width = rendering.visible.shape
    least = max(1.0, _LEAST_VISIBLE_SHARE * height * width)
    return np.flatnonzero(rendering.visible.sum(axis=(1, 2)) >= least)


def coco_records(index: int, scene: Scene, rendering: Rendering) -> tuple[dict, list[dict]]:
    """COCO image and annotations of one drawn scene.

    Ids depend on `index` alone. Beyond COCO's keys an annotation has `depth` (0 is the nearest annotated object of
    the image) and `covered` (hidden share of the amodal area inside the frame, in [0, 1]).
    """
    image = {
        "id": index + 1,
        "file_name": f"{index:06d}.png",
        "height": scene.height,
        "width": scene.width,
    }
    annotations = []
    for depth, number in enumerate(annotated(rendering)):
        encoded = mask_util.encode(np.asfortranarray(rendering.visible[number], dtype=np.uint8))
        annotations.append(
            {
                "id": image["id"] * 100 + depth,
                "image_id": image["id"],
                "category_id": scene.objects[number].category + 1,
                "iscrowd": 0,
                "area": int(rendering.visible[number].sum()),
                "bbox": mask_util.toBbox(encoded).tolist(),
                "segmentation": {"size": encoded["size"], "counts": encoded["counts"].decode("ascii")},
                "depth": depth,
                "covered": round(float(rendering.covered[number]), 4),
            }
        )
    return image, annotations


def _write_one(index: int, *, seed: int, size: int, folder: str) -> tuple[dict, list[dict], int]:
    """Draw and write one image; its COCO records and its number of hidden objects."""
    scene = occshapes_scene(seed, index, size)
    rendering = render(scene)
    image, annotations = coco_records(index, scene, rendering)
    path = os.path.join(folder, image["file_name"])
    if not cv2.imwrite(path, rendering.image, _PNG):
        raise DatasetError(f"cannot write {path}: is the disk full?")
    return image, annotations, len(scene.objects) - len(annotations)


def _write_all(count: int, workers: int, **options) -> Iterator[tuple[dict, list[dict], int]]:
    task = partial(_write_one, **options)
    if workers <= 1:
        yield from map(task, range(count))
        return
    # Fresh interpreters: a fork of a process that has run threads can hang.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(task, range(count), chunksize=max(1, min(64, count // (4 * workers))))


def _touches_kin(annotations: list[dict]) -> int:
    """Number of annotations of one image whose box overlaps another one of the same category."""
    boxes = np.array([annotation["bbox"] for annotation in annotations]).reshape(-1, 4)
    category = np.array([annotation["category_id"] for annotation in annotations])
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    overlap = (low[:, None] < high[None]).all(axis=2)
    overlap &= overlap.T & (category[:, None] == category[None])
    np.fill_diagonal(overlap, False)
    return int(overlap.any(axis=1).sum())


def occlusion_statistics(per_image: list[list[dict]], hidden: int = 0) -> OcclusionStatistics:
    """Statistics of annotations that carry `covered`, given per image."""
    flat = [annotation for annotations in per_image for annotation in annotations]
    covered = np.array([annotation["covered"] for annotation in flat])
    counts = np.bincount([annotation["category_id"] - 1 for annotation in flat], minlength=len(CATEGORIES))
    total = max(len(flat), 1)
    return OcclusionStatistics(
        images=len(per_image),
        instances=len(flat),
        hidden=hidden,
        covered_20=float((covered >= 0.2).sum() / total),
        covered_50=float((covered >= 0.5).sum() / total),
        mean_covered=float(covered.sum() / total),
        same_category_contact=sum(map(_touches_kin, per_image)) / total,
        per_category={category.name: int(count) for category, count in zip(CATEGORIES, counts, strict=True)},
    )


def _check_target(out: Path, overwrite: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not out.is_dir():
        raise DatasetError(f"{out} is a file; give a folder")
    if not overwrite:
        raise DatasetError(
            f"{out} is not empty; give another folder, or overwrite it: overwrite=True, on the command line --overwrite"
        )
    try:
        generator = json.loads((out / ANNOTATION_FILE).read_text())["info"]["generator"]
    except (OSError, ValueError, KeyError, TypeError):
        generator = None
    if generator != "occshapes":
        raise DatasetError(
            f"{out} was not written by this generator (no {ANNOTATION_FILE} of OccShapes in it), so it is not "
            "overwritten; delete it by hand, or give another folder"
        )


def _replace_folder(fresh: Path, out: Path) -> None:
    """Put a complete folder in the place of `out`; only whole folders are ever seen under that name."""
    retired = None
    if out.exists():
        retired = out.with_name(f".{out.name}.retired-{uuid.uuid4().hex[:8]}")
        os.rename(out, retired)
    os.rename(fresh, out)
    if retired is not None:
        shutil.rmtree(retired, ignore_errors=True)


def write_occshapes(
    out: str | os.PathLike,
    *,
    images: int = 500,
    seed: int = 0,
    size: int = 128,
    workers: int = 0,
    overwrite: bool = False,
    contact_sheet: bool = False,
    progress: bool = True,
) -> OcclusionStatistics:
    """Generate a set: `out/annotations.json` (COCO, masks as compressed RLE) and `out/images/*.png`.

    The set appears under its name when it is complete; an interrupted run leaves nothing.

    Args:
        out: folder to write; must be absent or empty, unless `overwrite`.
        images: number of images. Image k depends on (seed, k, size) alone.
        seed: of the set, 0 or more.
        size: height and width in pixels, at least 32.
        workers: processes; 0 or 1 works in this one.
        overwrite: replace a folder that this function wrote.
        contact_sheet: also write `out/contact_sheet.png`, the first images with their masks.
        progress: show a progress bar on stderr.

    Raises:
        DatasetError: `out` is in the way, or an argument is out of range.
    """
    if images < 1 or seed < 0 or size < 32:
        raise DatasetError(
            f"images must be 1 or more, seed 0 or more, size 32 or more; got images={images}, seed={seed}, size={size}"
        )
    out = Path(out)
    _check_target(out, overwrite)
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = out.with_name(f".{out.name}.partial-{uuid.uuid4().hex[:8]}")
    try:
        (fresh / IMAGE_FOLDER).mkdir(parents=True)
        work = _write_all(images, workers, seed=seed, size=size, folder=str(fresh / IMAGE_FOLDER))
        records = list(tqdm(work, total=images, desc="OccShapes", unit="image", disable=not progress))
        content = {
            "info": {
                "description": "OccShapes: generated images of overlapping objects with exact visible masks",
                "generator": "occshapes",
                "version": GENERATOR_VERSION,
                "seed": seed,
                "size": size,
            },
            "licenses": [],
            "categories": [
                {"id": number, "name": category.name, "supercategory": "seen" if category.seen else "unseen"}
                for number, category in enumerate(CATEGORIES, start=1)
            ],
            "images": [image for image, _, _ in records],
            "annotations": [annotation for _, annotations, _ in records for annotation in annotations],
        }
        (fresh / ANNOTATION_FILE).write_text(json.dumps(content))
        if contact_sheet:
            write_contact_sheet(fresh)
        _replace_folder(fresh, out)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return occlusion_statistics(
        [annotations for _, annotations, _ in records], hidden=sum(hidden for _, _, hidden in records)
    )


def _overlay(image: np.ndarray, annotations: list[dict], zoom: int) -> np.ndarray:
    """The enlarged image with every visible mask tinted, outlined, and labelled with what share is covered."""
    large = cv2.resize(image, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_NEAREST)
    for annotation in annotations:
        mask = cv2.resize(mask_util.decode(annotation["segmentation"]), large.shape[1::-1], interpolation=0)
        tint = np.random.default_rng(annotation["id"]).integers(60, 256, 3)
        large[mask > 0] = (0.5 * large[mask > 0] + 0.5 * tint).astype(np.uint8)
        contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(large, contours, -1, (255, 255, 255), 1)
    for annotation in annotations:
        x, y, width, height = annotation["bbox"]
        label = f"{CATEGORIES[annotation['category_id'] - 1].name} {annotation['covered']:.0%}"
        at = (int(zoom * x), int(zoom * (y + height / 2)))
        for color, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
            cv2.putText(large, label, at, cv2.FONT_HERSHEY_SIMPLEX, 0.35, color, thickness, cv2.LINE_AA)
    return large


def write_contact_sheet(folder: str | os.PathLike, *, count: int = 16, columns: int = 4) -> Path:
    """Write `contact_sheet.png` into a generated folder: its first `count` images, each beside its masks."""
    folder = Path(folder)
    content = json.loads((folder / ANNOTATION_FILE).read_text())
    by_image: dict[int, list[dict]] = {}
    for annotation in content["annotations"]:
        by_image.setdefault(annotation["image_id"], []).append(annotation)
    tiles = []
    for record in content["images"][:count]:
        image = cv2.imread(str(folder / IMAGE_FOLDER / record["file_name"]))
        zoom = max(1, round(256 / record["height"]))
        plain = _overlay(image, [], zoom)
        pair = np.hstack([plain, _overlay(image, by_image.get(record["id"], []), zoom)])
        tiles.append(cv2.copyMakeBorder(pair, 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=(255, 255, 255)))
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[start : start + columns]) for start in range(0, len(tiles), columns)]
    path = folder / CONTACT_SHEET_FILE
    if not cv2.imwrite(str(path), np.vstack(rows)):
        raise DatasetError(f"cannot write {path}: is the disk full?")
    return path
