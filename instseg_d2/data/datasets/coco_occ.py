"""COCO-OCC and its like: the images of a set whose objects overlap, chosen by their boxes.

BCNet reports on 1,005 of the 5,000 images of COCO 2017 val, whose boxes overlap by a ratio of 0.2 or more. Which ratio
is not said, and neither the list nor a program for it was published, so `OCCLUSION_RULES` has every reading, and
`tools/select_occluded.py` prints how many images each selects. On the boxes of COCO 2017 val without its crowd regions:

    mean_iou 904, any_iou_same_class 1175, any_smaller_same_class 2130, any_iou_no_crowd 2161, mean_covered 3310,
    mean_smaller 3495, any_smaller_no_crowd 3729, any_covered 3737

None gives 1,005, so figures on `coco_2017_val_occ`, which takes the nearest (`DEFAULT_RULE`), can be compared with each
other and not with the paper's.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from pycocotools import mask as mask_util

from ..errors import DatasetError
from .coco import read_coco_json
from .derived import cache_folder, keep_derived
from .splits import OnDisk, Split

# BCNet's.
THRESHOLD = 0.2
PAPER_IMAGES, PAPER_SELECTED = 5000, 1005

DEFAULT_RULE = "mean_iou"

# Raised whenever the same file gives another selection than before.
_FORM_VERSION = "1"


def box_iou(boxes: np.ndarray) -> np.ndarray:
    """Intersection over union of all pairs, (N, N), 0 on the diagonal, from (N, 4) xywh with N > 0."""
    # pycocotools, so that the IoU is that of COCO evaluation.
    result = np.asarray(mask_util.iou(boxes, boxes, [0] * len(boxes)))
    np.fill_diagonal(result, 0)
    return result


def share_of_smaller(boxes: np.ndarray) -> np.ndarray:
    """Intersection over the area of the smaller box of all pairs, (N, N), 0 on the diagonal, from (N, 4) xywh, N > 0.

    The larger of two shares of the own box: whether either of two boxes is covered by the other.
    """
    # With the crowd flag, pycocotools divides the intersection by the area of the first.
    own = np.asarray(mask_util.iou(boxes, boxes, [1] * len(boxes)))
    np.fill_diagonal(own, 0)
    return np.maximum(own, own.T)


def covered_by_others(boxes: np.ndarray) -> np.ndarray:
    """Share of each box that lies in the union of the other boxes, (N,), from (N, 4) xywh; 0 for an empty box."""
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    # The edges of all boxes cut the plane into cells, of which each box covers some rows and columns.
    x_edges, y_edges = (np.unique(np.concatenate([low[:, axis], high[:, axis]])) for axis in (0, 1))
    columns, rows = (
        (low[:, axis, None] <= edges[:-1]) & (edges[1:] <= high[:, axis, None])
        for axis, edges in ((0, x_edges), (1, y_edges))
    )
    shared = rows.T.astype(np.int64) @ columns.astype(np.int64) >= 2
    covered = ((rows * np.diff(y_edges)) @ shared * (columns * np.diff(x_edges))).sum(axis=1)
    area = boxes[:, 2:].prod(axis=1)
    return np.divide(covered, area, out=np.zeros(len(boxes)), where=area > 0)


@dataclass(frozen=True)
class OcclusionRule:
    """How occluded an image is, by the boxes of its annotations: a number in [0, 1].

    Attributes:
        meaning: in words.
        measure: "iou" (`box_iou`) and "smaller" (`share_of_smaller`) of pairs, of which each box has its greatest one;
            "covered" (`covered_by_others`) of each box.
        mean: the mean over the boxes, else the greatest.
        crowd: crowd regions take part.
        same_class: pairs of one category only.
    """

    meaning: str
    measure: str
    mean: bool = False
    crowd: bool = False
    same_class: bool = False

    def score(self, annotations: Sequence[dict[str, Any]]) -> float:
        """The number for the annotations of one image (COCO's keys `bbox`, `category_id`, `iscrowd`)."""
        listed = [one for one in annotations if self.crowd or not one.get("iscrowd", 0)]
        if len(listed) < 2:
            return 0.0
        boxes = np.array([one["bbox"] for one in listed], dtype=np.float64)
        if self.measure == "covered":
            per_box = covered_by_others(boxes)
        else:
            pairs = {"iou": box_iou, "smaller": share_of_smaller}[self.measure](boxes)
            if self.same_class:
                category = np.array([one["category_id"] for one in listed])
                pairs = pairs * (category[:, None] == category[None])
            per_box = pairs.max(axis=1)
        return float(per_box.mean() if self.mean else per_box.max())


_OF_SMALLER, _COVERED = "intersection over the smaller box", "share of its box in the union of the others"

OCCLUSION_RULES = {
    "any_iou": OcclusionRule("any pair by IoU, crowd regions too", "iou", crowd=True),
    "any_smaller": OcclusionRule(f"any pair by {_OF_SMALLER}, crowd regions too", "smaller", crowd=True),
    "any_iou_no_crowd": OcclusionRule("any pair by IoU", "iou"),
    "any_smaller_no_crowd": OcclusionRule(f"any pair by {_OF_SMALLER}", "smaller"),
    "any_iou_same_class": OcclusionRule("any pair of one class by IoU", "iou", same_class=True),
    "any_smaller_same_class": OcclusionRule(f"any pair of one class by {_OF_SMALLER}", "smaller", same_class=True),
    "mean_iou": OcclusionRule("mean over the objects of the greatest IoU", "iou", mean=True),
    "mean_smaller": OcclusionRule(f"mean over the objects of the greatest {_OF_SMALLER}", "smaller", mean=True),
    "any_covered": OcclusionRule(f"any object by {_COVERED}", "covered"),
    "mean_covered": OcclusionRule(f"mean over the objects of the {_COVERED}", "covered", mean=True),
}
"""By name; those without "crowd regions too" look at objects alone."""


def occlusion_rule(name: str) -> OcclusionRule:
    """The rule with this name.

    Raises:
        DatasetError: there is none.
    """
    if name not in OCCLUSION_RULES:
        raise DatasetError(f"no occlusion rule '{name}'; there are {', '.join(OCCLUSION_RULES)}")
    return OCCLUSION_RULES[name]


def annotations_by_image(content: dict[str, Any]) -> dict[Any, list[dict]]:
    """Annotations of each image of a parsed COCO file, by image id, in the file's order; those of no image are left."""
    per_image: dict[Any, list[dict]] = {image["id"]: [] for image in content["images"]}
    for annotation in content.get("annotations", ()):
        per_image.get(annotation["image_id"], []).append(annotation)
    return per_image


def occluded_images(content: dict[str, Any], rule: str = DEFAULT_RULE, threshold: float = THRESHOLD) -> list:
    """Ids of the images of a parsed COCO file whose score is `threshold` or more, in the file's order.

    Raises:
        DatasetError: there is no such rule.
    """
    score = occlusion_rule(rule).score
    return [key for key, annotations in annotations_by_image(content).items() if score(annotations) >= threshold]


def keep_images(content: dict[str, Any], ids: Iterable[Any]) -> dict[str, Any]:
    """A parsed COCO file with some of its images alone. Annotations keep their ids, areas and all else."""
    kept = set(ids)
    return {
        **content,
        "images": [image for image in content["images"] if image["id"] in kept],
        "annotations": [one for one in content.get("annotations", ()) if one["image_id"] in kept],
    }


@dataclass(frozen=True, kw_only=True)
class OccludedImages(Split):
    """The occluded images of another split; its annotation file is made when it is first asked for, and cached.

    Attributes:
        base: the split.
        judged_by: the split whose boxes decide; it has the same images.
        rule: of `OCCLUSION_RULES`.
        threshold: least score of an image.
    """

    base: Split
    judged_by: Split
    rule: str = DEFAULT_RULE
    threshold: float = THRESHOLD

    def prepare(self, name: str, root: str) -> None:
        """Make sure that the files of the other split are there, and choose the images.

        Raises:
            DatasetError: the files are not there, or no image is occluded enough.
        """
        for split in (self.base, self.judged_by):
            split.prepare(name, root)
        keep_derived(self.base.evaluation_json(root), Path(self.evaluation_json(root)), lambda: self._content(root))

    def _content(self, root: str) -> str:
        judge = self.judged_by.evaluation_json(root)
        ids = occluded_images(read_coco_json(judge), self.rule, self.threshold)
        if not ids:
            raise DatasetError(f"{judge}: no image with '{self.rule}' of {self.threshold:g} or more")
        return json.dumps(keep_images(read_coco_json(self.base.evaluation_json(root)), ids))

    def evaluation_json(self, root: str) -> str:
        """Path of the annotations of the chosen images, in the cache."""
        paths = [os.path.abspath(split.evaluation_json(root)) for split in (self.base, self.judged_by)]
        digest = hashlib.sha256(repr((*paths, self.rule, self.threshold)).encode()).hexdigest()[:12]
        folder = cache_folder() / f"occluded_v{_FORM_VERSION}"
        return os.fspath(folder / f"{Path(paths[0]).stem}_{self.rule}_{digest}.json")

    def metadata(self, root: str) -> dict[str, Any]:
        """Also how the images were chosen (`occlusion_rule`), and of what file (`full_json_file`)."""
        return {
            **self.base.metadata(root),
            "json_file": self.evaluation_json(root),
            "full_json_file": self.base.evaluation_json(root),
            "occlusion_rule": f"{self.rule} >= {self.threshold:g}",
        }


def occluded(base: Split, *, judged_by: Split | None = None, rule: str = DEFAULT_RULE) -> OccludedImages:
    """The occluded images of a split, by its own boxes or by those of another one with the same images."""
    return OccludedImages(
        json_file=base.json_file,
        image_root=base.image_root,
        classes=base.classes,
        base=base,
        judged_by=judged_by or base,
        rule=rule,
    )


def coco_2017_val() -> OnDisk:
    """COCO's own validation split, where detectron2 looks for it."""
    return OnDisk(
        json_file="coco/annotations/instances_val2017.json",
        image_root="coco/val2017",
        classes=tuple(MetadataCatalog.get("coco_2017_val").thing_classes),
        tree="""\
  coco/
    annotations/instances_val2017.json
    val2017/*.jpg""",
    )


def occluded_splits(occshapes_val: Split, occshapes_amodal_val: Split) -> dict[str, Split]:
    """The built-in sets of occluded images by name; those of OccShapes are the same images, chosen by visible boxes."""
    return {
        "coco_2017_val_occ": occluded(coco_2017_val()),
        "occshapes_val_occ": occluded(occshapes_val),
        "occshapes_amodal_val_occ": occluded(occshapes_amodal_val, judged_by=occshapes_val),
    }
