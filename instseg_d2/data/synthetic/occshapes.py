"""OccShapes: generated images of overlapping objects, written with exact visible and amodal masks, depth, occluders."""

import json
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from ..errors import DatasetError
from .contact_sheet import draw_contact_sheet
from .folders import check_target, encode_png, run_all, whole_folder
from .layouts import (
    ImageTruth,
    amodal_coco_content,
    coco_content,
    cocoa_content,
    image_truth,
    kins_content,
)
from .outlines import CATEGORIES
from .scene import Scene, render, sample_scene

# Raised whenever the same seed gives other pictures or other truth than before.
GENERATOR_VERSION = "2"

ANNOTATION_FILE = "annotations.json"
AMODAL_FILE = "annotations_amodal.json"
KINS_FILE = "annotations_kins.json"
COCOA_FILE = "annotations_cocoa.json"
IMAGE_FOLDER = "images"
CONTACT_SHEET_FILE = "contact_sheet.png"

# The same truth in the layouts of the real data sets, so that their loaders read it.
LAYOUTS = {
    ANNOTATION_FILE: coco_content,
    AMODAL_FILE: amodal_coco_content,
    KINS_FILE: kins_content,
    COCOA_FILE: cocoa_content,
}


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


def _write_one(index: int, *, seed: int, size: int, folder: Path) -> ImageTruth:
    """Draw and write one image; its truth."""
    scene = occshapes_scene(seed, index, size)
    rendering = render(scene)
    truth = image_truth(index, scene, rendering)
    (folder / truth.image["file_name"]).write_bytes(encode_png(rendering.image))
    return truth


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


def _write_layouts(folder: Path, truths: list[ImageTruth], seed: int, size: int) -> dict[str, Any]:
    """Write every annotation file; the content of the first one."""
    info = {
        "description": "OccShapes: generated images of overlapping objects with exact visible and amodal masks",
        "generator": "occshapes",
        "version": GENERATOR_VERSION,
        "seed": seed,
        "size": size,
    }
    contents = {name: layout(info, truths) for name, layout in LAYOUTS.items()}
    for name, content in contents.items():
        (folder / name).write_text(json.dumps(content))
    return contents[ANNOTATION_FILE]


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
    """Generate a set: `out/images/*.png`, and the truth in four files (masks as compressed run lengths).

    `annotations.json` is COCO with visible masks, `annotations_amodal.json` COCO with amodal ones,
    `annotations_kins.json` and `annotations_cocoa.json` have the layouts of KINS and COCOA. All list the same
    instances: an object of which next to nothing is visible is drawn, and hides others, but is in none of them.
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
    check_target(out, overwrite, marker=ANNOTATION_FILE, generator="occshapes")
    with whole_folder(out) as fresh:
        (fresh / IMAGE_FOLDER).mkdir()
        task = partial(_write_one, seed=seed, size=size, folder=fresh / IMAGE_FOLDER)
        truths = list(
            tqdm(run_all(task, images, workers), total=images, desc="OccShapes", unit="image", disable=not progress)
        )
        content = _write_layouts(fresh, truths, seed, size)
        if contact_sheet:
            write_contact_sheet(fresh)
    return occlusion_statistics(_per_image(content), hidden=sum(truth.left_out for truth in truths))


def _per_image(content: dict[str, Any]) -> list[list[dict]]:
    """The annotations of each image of a COCO content."""
    by_image: dict[int, list[dict]] = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        by_image[annotation["image_id"]].append(annotation)
    return list(by_image.values())


def write_contact_sheet(folder: str | os.PathLike, *, count: int = 16, columns: int = 3) -> Path:
    """Write `contact_sheet.png` into a generated folder: its first `count` images, see `draw_contact_sheet`."""
    folder = Path(folder)
    content = json.loads((folder / ANNOTATION_FILE).read_text())
    images = [cv2.imread(str(folder / IMAGE_FOLDER / image["file_name"])) for image in content["images"][:count]]
    sheet = draw_contact_sheet(images, _per_image(content)[:count], columns=columns)
    path = folder / CONTACT_SHEET_FILE
    path.write_bytes(encode_png(sheet))
    return path
