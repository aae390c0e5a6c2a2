"""COCO's AP side by side for subsets of categories and of instances, and by how much of an instance is hidden."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.evaluation import COCOEvaluator
from pycocotools.cocoeval import COCOeval
from tabulate import tabulate

from instseg_d2.data import DatasetError, category_names, prepare_dataset

from .instance_subsets import InstanceSubset, occlusion_subsets, selected_ids
from .matching import Variant, precisions
from .truth import GroundTruth

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
AREAS = ("all", "small", "medium", "large")
_TASKS = ("bbox", "segm")


class SubsetCOCOEvaluator(COCOEvaluator):
    """detectron2's `COCOEvaluator`, which adds tasks to its results; its own (`bbox`, `segm`) are not changed.

    - `segm_<category subset>`: AP, AP50, AP75, APs, APm, APl over some categories (partially supervised protocols:
      seen and unseen). The detections are those of the whole evaluation, with the 100 best of an image taken by the
      model over all categories. Over all areas this is the mean of the per-category AP.
    - `segm_<instance subset>`: the same over some instances, with the others ignored, see `matching.precisions`;
      `segm_<category subset>_<instance subset>` for both at once.
    - `segm_by_occlusion`: `AP-<range>` and `instances-<range>`, their number, for each range of the hidden share,
      such as `AP-0`, `AP-0-0.2`. False detections count in every range, so these figures are lower than `AP`, and
      comparable between models, not between ranges.

    - `segm_top<K>`, `segm_<subset>_top<K>` with `best_detections` = K: all of it again for the K best of each image.

    And likewise `bbox_...`. All figures but the numbers of instances are in percent; NaN is what cannot be computed.
    IoUs are computed once. A category subset costs nothing; instance subsets and ranges are matched all at once.

    Args:
        dataset_name: a registered data set, see `COCOEvaluator`, as for the next three.
        tasks: "bbox", "segm" or both; None takes those of the predictions.
        distributed: gather from all processes.
        output_dir: where the predictions are written.
        category_subsets: by name, category names, ids of the annotation file, or the name of a split of
            `instseg_d2.data.category_splits`. None stands for all categories, and {"all": None} for the tasks that
            are there anyway.
        instance_subsets: see `overlap_at_least`, `covered_between`, `area_between`.
        occlusion_bins: ranges (low, high] of the hidden share, or [x, x] for exactly x, such as `OCCLUSION_BINS`.
        best_detections: evaluate a second time with no more detections of an image than that, over all categories: to
            compare a model that keeps more with others. Files are written of the whole.
        options: further arguments of `COCOEvaluator`.

    Raises:
        DatasetError: a category is not in the data set, two subsets have one name; in `evaluate()`, the data set does
            not say what a subset asks for, see `ImageTruth`.
        ValueError: an occlusion bin is no range within [0, 1]; `best_detections` is less than 1.
    """

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] | None = None,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        category_subsets: Mapping[str, str | Iterable[str | int] | None] | None = None,
        instance_subsets: Iterable[InstanceSubset] = (),
        occlusion_bins: Iterable[Sequence[float]] = (),
        best_detections: int | None = None,
        **options: Any,
    ):
        if best_detections is not None and best_detections < 1:
            raise ValueError(f"best_detections must be 1 or more, got {best_detections}")
        prepare_dataset(dataset_name)
        super().__init__(dataset_name, tasks, distributed, output_dir, **options)
        self._truth = GroundTruth(dataset_name, self._coco_api)
        names = {key: self._coco_api.cats[key]["name"] for key in sorted(self._coco_api.cats)}
        self._category_subsets = {
            name: _category_positions(name, categories, names)
            for name, categories in (category_subsets or {}).items()
            if (name, categories) != ("all", None)
        }
        self._instance_subsets = list(instance_subsets)
        self._occlusion_subsets = occlusion_subsets(occlusion_bins)
        self._best_detections = best_detections
        self._selected: list[set] | None = None
        self._check_names()

    def _check_names(self) -> None:
        subsets = [subset.name for subset in self._instance_subsets]
        both = [f"{categories}_{subset}" for categories in self._category_subsets for subset in subsets]
        names = [*self._category_subsets, *subsets, *both, *(["by_occlusion"] if self._occlusion_subsets else [])]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise DatasetError(f"several subsets would give results called {', '.join(repeated)}: rename them")

    def _eval_predictions(self, predictions: list[dict[str, Any]], img_ids: Sequence[int] | None = None) -> None:
        """Called once with all predictions; the place of detectron2 where the tasks are evaluated."""
        count = self._best_detections
        best = [] if count is None else [{**x, "instances": _best(x["instances"], count)} for x in predictions]
        super()._eval_predictions(predictions, img_ids=img_ids)
        if count is None:
            return
        whole, folder = self._results, self._output_dir
        self._results, self._output_dir = OrderedDict(), None
        super()._eval_predictions(best, img_ids=img_ids)
        again = {f"{task}_top{count}": metrics for task, metrics in self._results.items()}
        self._results, self._output_dir = OrderedDict({**whole, **again}), folder

    def _derive_coco_results(
        self, coco_eval: COCOeval | None, iou_type: str, class_names: Sequence[str] | None = None
    ) -> dict[str, float]:
        """Called once a task is evaluated; the place of detectron2 where its figures are derived."""
        results = super()._derive_coco_results(coco_eval, iou_type, class_names)
        if iou_type in _TASKS:
            self._results[iou_type] = results
            by_subset, by_range = self._precisions(coco_eval)
            self._results.update(self._by_subset(by_subset, iou_type))
            if by_range:
                self._results[f"{iou_type}_by_occlusion"] = self._by_occlusion(by_range, coco_eval, iou_type)
        return results

    def _selected_ids(self) -> list[set]:
        """Annotation ids of the instance subsets, then of the occlusion bins; the same for every evaluation."""
        if self._selected is None:
            subsets = [*self._instance_subsets, *self._occlusion_subsets.values()]
            self._selected = selected_ids(self._truth, subsets)
        return self._selected

    def _precisions(
        self, coco_eval: COCOeval | None
    ) -> tuple[dict[str, np.ndarray | None], dict[str, np.ndarray | None]]:
        """Precision of each instance subset by name, "" for all instances, (A, T, R, K); of each bin, (1, T, R, K)."""
        names, labels = [subset.name for subset in self._instance_subsets], list(self._occlusion_subsets)
        if coco_eval is None:
            return dict.fromkeys(["", *names]), dict.fromkeys(labels)
        everything = np.moveaxis(coco_eval.eval["precision"][..., -1], -1, 0)
        if not names and not labels:
            return {"": everything}, {}
        selected = self._selected_ids()
        variants = [Variant(kept, area) for kept in selected[: len(names)] for area in AREAS]
        found = precisions(coco_eval, variants + [Variant(kept) for kept in selected[len(names) :]])
        by_subset = found[: len(variants)].reshape(len(names), len(AREAS), *found.shape[1:])
        by_range = found[len(variants) :, None]
        return {"": everything, **dict(zip(names, by_subset, strict=True))}, dict(zip(labels, by_range, strict=True))

    def _by_subset(self, by_subset: Mapping[str, np.ndarray | None], task: str) -> dict[str, dict[str, float]]:
        everything = {"": list(range(len(self._coco_api.cats)))}
        results = {}
        for instances, precision in by_subset.items():
            for categories, positions in {**everything, **self._category_subsets}.items():
                name = "_".join(filter(None, (task, categories, instances)))
                if name != task:
                    results[name] = _metrics(precision, positions)
        if results:
            rows = [[name, *metrics.values()] for name, metrics in results.items()]
            self._logger.info(f"{task} AP of subsets:\n{_table(rows, ['subset', *METRICS])}")
        return results

    def _by_occlusion(
        self, by_range: Mapping[str, np.ndarray | None], coco_eval: COCOeval | None, task: str
    ) -> dict[str, float]:
        results: dict[str, float] = {}
        images = self._coco_api.imgs.keys() if coco_eval is None else set(coco_eval.params.imgIds)
        rows = []
        selected = self._selected_ids()[len(self._instance_subsets) :]
        for (label, precision), kept in zip(by_range.items(), selected, strict=True):
            count = sum(self._coco_api.anns[key]["image_id"] in images for key in kept)
            results |= {f"AP-{label}": _mean(precision), f"instances-{label}": count}
            rows.append([label, results[f"AP-{label}"], count])
        self._logger.info(f"{task} AP by hidden share:\n{_table(rows, ['hidden', 'AP', 'instances'])}")
        return results


def _best(detections: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    # Copies: detectron2 changes the ids of categories in place.
    return [dict(one) for one in sorted(detections, key=lambda one: one["score"], reverse=True)[:count]]


def _category_positions(
    subset: str, categories: str | Iterable[str | int] | None, names: Mapping[int, str]
) -> list[int]:
    """Positions of a subset's categories among all, in the order of ids.

    Args:
        subset: its name.
        categories: as `SubsetCOCOEvaluator` takes them.
        names: by id, in the order of ids.
    """
    if categories is None:
        return list(range(len(names)))
    if not isinstance(categories, str):
        categories = [names.get(entry, str(entry)) if isinstance(entry, int) else entry for entry in categories]
    try:
        found = category_names(categories, list(names.values()))
    except DatasetError as error:
        raise DatasetError(f"category subset '{subset}': {error}") from error
    if not found:
        raise DatasetError(f"category subset '{subset}' is empty: name its categories, or leave it out")
    return [position for position, name in enumerate(names.values()) if name in found]


def _metrics(precision: np.ndarray | None, positions: list[int]) -> dict[str, float]:
    """`METRICS` of the categories at some positions, from (A, T, R, K); None without any detection."""
    if precision is None:
        return dict.fromkeys(METRICS, float("nan"))
    overall, *by_size = precision[..., positions]
    # IoU thresholds are 0.5, 0.55, ..., 0.95: the first is AP50, the sixth AP75.
    parts = [overall, overall[0], overall[5], *by_size]
    return {metric: _mean(part) for metric, part in zip(METRICS, parts, strict=True)}


def _mean(precision: np.ndarray | None) -> float:
    """Mean in percent of what could be computed. A category without ground truth has -1 and stays out."""
    valid = precision[precision > -1] if precision is not None else np.empty(0)
    return float(valid.mean() * 100) if valid.size else float("nan")


def _table(rows: list[list], headers: list[str]) -> str:
    return tabulate(rows, headers=headers, tablefmt="pipe", floatfmt=".3f", numalign="left")
