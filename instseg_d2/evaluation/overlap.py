"""How other objects in the box spoil a mask: AP by overlap, and what the wrong pixels of masks lie on.

Zhao et al., "Rethinking mask heads for partially supervised instance segmentation", Sec. 3.1 and 3.2. The overlap of an
object itself is `ImageTruth.overlaps`.
"""

import contextlib
import io
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as mask_util
from pycocotools.cocoeval import COCOeval
from tqdm import tqdm

from instseg_d2.data import DatasetError

from .instance_subsets import InstanceSubset, overlap_at_least, range_label, selected_ids
from .matching import Variant, precisions
from .truth import GroundTruth, ImageTruth

OVERLAP_BINS = tuple((step / 10, (step + 1) / 10) for step in range(10))
"""Ranges of width 0.1; the paper's figure 2 does not tell its own."""

# Entry of COCO's results format: image_id, category_id, score, bbox (XYWH), segmentation (run lengths).
Result = dict[str, Any]
_RESULT_KEYS = {"image_id", "category_id", "score", "bbox", "segmentation"}


def overlap_between(low: float, high: float) -> InstanceSubset:
    """Instances with low < O <= high (`ImageTruth.overlaps`); a range from 0 on has those without overlap too.

    Raises:
        ValueError: not 0 <= low < high <= 1.
    """
    if not 0 <= low < high <= 1:
        raise ValueError(f"a range of overlaps must be 0 <= low < high <= 1, not [{low}, {high}]")
    below = -1 if low == 0 else low
    return InstanceSubset(
        f"overlap_{range_label(low, high)}", lambda one, image: below < image.overlaps[one["id"]] <= high
    )


def read_results(path: Path, truth: GroundTruth) -> list[Result]:
    """Read `coco_instances_results.json`, as COCOEvaluator writes it, of a model that predicts masks.

    Raises:
        FileNotFoundError: there is no such file.
        DatasetError: it is none, or of another data set.
    """
    try:
        results = json.loads(path.read_text())
    except ValueError as error:
        raise DatasetError(f"{path} is no JSON file: {error}") from error
    if not isinstance(results, list) or not all(isinstance(one, dict) for one in results):
        raise DatasetError(f"{path} is no list of predictions: give coco_instances_results.json of a run")
    for number, one in enumerate(results):
        if missing := sorted(_RESULT_KEYS - one.keys()):
            raise DatasetError(f"{path}: prediction {number} has no {', '.join(missing)}; it needs boxes and masks")
        if one["image_id"] not in truth.coco.imgs or one["category_id"] not in truth.coco.cats:
            raise DatasetError(
                f"{path}: prediction {number} is of image {one['image_id']!r}, category {one['category_id']!r}, which "
                f"{truth.json_file} does not have: it belongs to another data set"
            )
    return results


def ap_by_overlap(
    truth: GroundTruth,
    results: Sequence[Result],
    *,
    categories: str | Iterable[str] | None = None,
    bins: Iterable[Sequence[float]] = OVERLAP_BINS,
    threshold: float = 0.3,
) -> list[dict[str, float | str]]:
    """Mask AP of objects by how much of their box one other object's mask fills (figure 2, Table 2).

    Objects outside of a range are ignored: they count neither as found nor as missed, nor do detections of them.
    False detections count in every range, so a range with few objects has a lower AP; compare models, not ranges.

    Args:
        truth: of the data set.
        results: detections; the best 100 of an image and category count, as in COCO.
        categories: a split, or names, whose AP is averaged; None for all. Objects of all categories overlap.
        bins: ranges (low, high], see `overlap_between`.
        threshold: of a row of its own, all objects with at least that overlap.

    Returns:
        A row for all objects, each range, and the threshold: `overlap` (text), `instances`, and `AP`, `AP50`, `AP75`
        in percent, NaN where a row has no object.

    Raises:
        DatasetError: see `category_names`.
        ValueError: see `overlap_between`.
    """
    ids = truth.category_ids(categories)
    everything = InstanceSubset("all", lambda one, image: True)
    subsets = {range_label(*ends): overlap_between(*ends) for ends in map(tuple, bins)}
    subsets = {"all": everything, **subsets, f">= {threshold:g}": overlap_at_least(threshold)}
    kept = [
        {key for key in chosen if truth.coco.anns[key]["category_id"] in ids}
        for chosen in selected_ids(truth, subsets.values())
    ]
    finished = _evaluate(truth, results, ids)
    found = [None] * len(kept) if finished is None else precisions(finished, [Variant(chosen) for chosen in kept])
    return [
        {"overlap": label, "instances": len(chosen), **_metrics(precision, bool(chosen))}
        for label, chosen, precision in zip(subsets, kept, found, strict=True)
    ]


def _evaluate(truth: GroundTruth, results: Sequence[Result], categories: Collection[int]) -> COCOeval | None:
    """A finished evaluation of masks over all areas; None without detections."""
    # With the boxes, COCO would take areas from these.
    masks = [
        {key: value for key, value in one.items() if key != "bbox"}
        for one in results
        if one["category_id"] in categories
    ]
    if not masks:
        return None
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth.coco, truth.coco.loadRes(masks), "segm")
        evaluation.params.catIds = sorted(categories)
        evaluation.params.areaRng, evaluation.params.areaRngLbl = evaluation.params.areaRng[:1], ["all"]
        evaluation.evaluate()
    return evaluation


def _metrics(precision: np.ndarray | None, any_object: bool) -> dict[str, float]:
    """AP, AP50 and AP75 in percent of (T, R, K), thresholds 0.5, 0.55, ...; None stands for no detections."""
    if precision is None:
        return dict.fromkeys(("AP", "AP50", "AP75"), 0.0 if any_object else float("nan"))
    figures = {"AP": precision, "AP50": precision[0], "AP75": precision[5]}
    # -1: a category without objects.
    return {
        name: float(part[part > -1].mean() * 100) if (part > -1).any() else float("nan")
        for name, part in figures.items()
    }


@dataclass
class FalsePositives:
    """Where predicted masks are wrong, in pixels.

    Attributes:
        background: pixels on no object.
        seen: on another object of a seen category; where several objects lie, a seen one decides.
        unseen: on another object of an unseen category.
        detections: whose masks were looked at.
    """

    background: int = 0
    seen: int = 0
    unseen: int = 0
    detections: int = 0

    def shares(self) -> dict[str, float]:
        """Percent of all wrong pixels by name; NaN without any."""
        counts = {name: count for name, count in asdict(self).items() if name != "detections"}
        total = sum(counts.values())
        return {name: 100 * count / total if total else float("nan") for name, count in counts.items()}


def attribute_false_positives(
    truth: GroundTruth,
    results: Sequence[Result],
    *,
    seen: str | Iterable[str],
    categories: str | Iterable[str] | None = None,
    box_iou: float = 0.5,
    per_image: int = 100,
) -> FalsePositives:
    """Tell what the wrong pixels of masks lie on: background, seen or unseen objects (figure 3).

    Wrong pixels are those of a detection's mask outside of its own object's. Whose mask it is, the boxes decide: the
    best detections first, each takes the free object of its category with the highest IoU, `box_iou` at least.
    Detections without an object are left out: they have no mask to be right about. Pixels that lie on nothing but a
    crowd region are not counted.

    Args:
        truth: of the data set.
        results: detections, with boxes and masks.
        seen: a split, or names, of the categories that had masks in training; all others are unseen.
        categories: whose detections are looked at; None for all.
        box_iou: least IoU of the boxes of a detection and its object.
        per_image: the best detections of an image, over all categories, that count.

    Raises:
        DatasetError: see `category_names`.
    """
    seen_ids, ids = truth.category_ids(seen), truth.category_ids(categories)
    by_image: dict[Any, list[Result]] = {}
    for one in results:
        by_image.setdefault(one["image_id"], []).append(one)
    total = FalsePositives()
    for image_id, found in tqdm(by_image.items(), "wrong pixels", unit="image", disable=None):
        image = truth.image(image_id)
        best = sorted(found, key=lambda one: -one["score"])[:per_image]
        pairs = _matched([one for one in best if one["category_id"] in ids], image, box_iou)
        _count(total, pairs, image, seen_ids)
    return total


def _matched(found: list[Result], image: ImageTruth, box_iou: float) -> list[tuple[Result, Any]]:
    """Detections, by falling score, with the annotation that each is of."""
    objects = image.objects
    if not found or not objects:
        return []
    ious = mask_util.iou(_boxes(found), _boxes(objects), [0] * len(objects))
    free, pairs = np.ones(len(objects), dtype=bool), []
    classes = np.array([one["category_id"] for one in objects])
    for detection, row in zip(found, ious, strict=True):
        usable = np.where(free & (classes == detection["category_id"]), row, -1)
        taken = int(usable.argmax())
        if usable[taken] >= box_iou:
            free[taken] = False
            pairs.append((detection, objects[taken]))
    return pairs


def _boxes(entries: Sequence[dict[str, Any]]) -> np.ndarray:
    return np.array([one["bbox"] for one in entries], dtype=np.float64)


def _count(total: FalsePositives, pairs: list[tuple[Result, Any]], image: ImageTruth, seen: Collection[int]) -> None:
    """Add the wrong pixels of one image. Unions and intersections of run lengths; nothing is drawn."""
    objects = [(image.mask(one), one) for one in image.objects]
    on_seen = _union([mask for mask, one in objects if one["category_id"] in seen], image)
    on_objects = _union([mask for mask, _ in objects], image)
    on_any = _union([image.mask(one) for one in image.annotations], image)
    for detection, own in pairs:
        mask = image.mask(detection)
        right = mask_util.merge([mask, image.mask(own)], intersect=True)
        correct = _area(right)
        # An object's own pixels lie in `on_objects` and `on_any`, and in `on_seen` as far as they are those of a seen.
        wrong_on_seen = _common(mask, on_seen) - _common(right, on_seen)
        wrong_on_objects = _common(mask, on_objects) - correct
        total.seen += wrong_on_seen
        total.unseen += wrong_on_objects - wrong_on_seen
        total.background += _area(mask) - _common(mask, on_any)
        total.detections += 1


def _union(masks: list[dict[str, Any]], image: ImageTruth) -> dict[str, Any]:
    if masks:
        return mask_util.merge(masks)
    return mask_util.encode(np.zeros((image.height, image.width), np.uint8, order="F"))


def _area(mask: dict[str, Any]) -> int:
    return int(mask_util.area(mask))


def _common(mask: dict[str, Any], other: dict[str, Any]) -> int:
    return _area(mask_util.merge([mask, other], intersect=True))
