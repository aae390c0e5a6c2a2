"""COCO evaluation: the fast path against pycocotools, on generated ground truth and predictions."""

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.evaluation.fast_eval_api import COCOeval_opt
from pycocotools import mask as mask_util
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tqdm import tqdm

from .compare import CLOCKS, TOTAL, peak_memory

_HEIGHT, _WIDTH, _CLASSES = 480, 640, 80
_OBJECTS_PER_IMAGE = 7


def _blob(centre: np.ndarray, radius: float, outline: np.ndarray) -> dict:
    """Run-length mask of a star-shaped outline, relative radii at equal angles."""
    angles = np.linspace(0, 2 * np.pi, len(outline), endpoint=False)
    points = centre + radius * outline[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    points = points.clip(0, [_WIDTH - 1, _HEIGHT - 1])
    rle = mask_util.frPyObjects([points.ravel().tolist()], _HEIGHT, _WIDTH)[0]
    return {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}


def generate(folder: Path, images: int, detections: int, seed: int = 0) -> tuple[Path, list[list[dict]]]:
    """Write COCO ground truth with seven masks an image, about 60 px wide, and make predictions for it.

    About two of three objects are found, with moved centres and other outlines; the rest is false.

    Args:
        folder: for `instances.json`.
        images: 640 x 480 px.
        detections: of each image.
        seed: of the generator.

    Returns:
        The json, and for each image its predictions in COCO's result format.
    """
    rng = np.random.default_rng(seed)
    annotations, predictions = [], []
    for image_id in tqdm(range(1, images + 1), desc="generate", unit="image"):
        found = []
        for _ in range(_OBJECTS_PER_IMAGE):
            centre, radius = rng.uniform([40, 40], [_WIDTH - 40, _HEIGHT - 40]), 30 * rng.lognormal(0, 0.6)
            outline, category = rng.uniform(0.75, 1.2, 16), int(rng.integers(1, _CLASSES + 1))
            mask = _blob(centre, radius, outline)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category,
                    "iscrowd": int(rng.random() < 0.01),
                    "area": float(mask_util.area(mask)),
                    "bbox": mask_util.toBbox(mask).tolist(),
                    "segmentation": mask,
                }
            )
            if rng.random() < 0.67 and len(found) < detections:
                found.append(
                    {
                        "category_id": category,
                        "score": float(rng.beta(3, 2)),
                        "segmentation": _blob(
                            centre + rng.normal(0, 0.1, 2) * radius, radius, outline * rng.normal(1, 0.08, 16)
                        ),
                    }
                )
        while len(found) < detections:
            centre, radius = rng.uniform([40, 40], [_WIDTH - 40, _HEIGHT - 40]), 30 * rng.lognormal(0, 0.6)
            found.append(
                {
                    "category_id": int(rng.integers(1, _CLASSES + 1)),
                    "score": float(rng.beta(2, 4)),
                    "segmentation": _blob(centre, radius, rng.uniform(0.75, 1.2, 16)),
                }
            )
        for item in found:
            item.update(image_id=image_id, bbox=mask_util.toBbox(item["segmentation"]).tolist())
        predictions.append(found)
    json_file = folder / "instances.json"
    names = [{"id": i, "name": f"class {i}"} for i in range(1, _CLASSES + 1)]
    records = [{"id": i, "file_name": f"{i}.jpg", "height": _HEIGHT, "width": _WIDTH} for i in range(1, images + 1)]
    json_file.write_text(json.dumps({"images": records, "categories": names, "annotations": annotations}))
    return json_file, predictions


class _FromResults(COCOEvaluator):
    """Takes predictions that are encoded already: that is work outside of what is compared."""

    def process(self, inputs: list[list[dict]], outputs: None = None) -> None:
        self._predictions += [{"image_id": found[0]["image_id"], "instances": found} for found in inputs if found]


def _contiguous(predictions: list[list[dict]]) -> list[list[dict]]:
    """As a model gives them: class indices from 0."""
    return [[{**item, "category_id": item["category_id"] - 1} for item in found] for found in predictions]


class EvaluatorRun:
    """A competitor: `COCOEvaluator.evaluate()`, everything from collected predictions to the printed tables."""

    def __init__(
        self, name: str, json_file: Path, predictions: list[list[dict]], task: str, *, clock: str, fast: bool
    ) -> None:
        self.name = name
        dataset = f"benchmark_{json_file.parent.name}"
        MetadataCatalog.pop(dataset, None)
        MetadataCatalog.get(dataset).set(
            json_file=str(json_file),
            thing_classes=[f"class {i}" for i in range(1, _CLASSES + 1)],
            thing_dataset_id_to_contiguous_id={i: i - 1 for i in range(1, _CLASSES + 1)},
        )
        with contextlib.redirect_stdout(io.StringIO()):
            self._evaluator = _FromResults(dataset, tasks=(task,), distributed=False, use_fast_impl=fast)
        self._predictions = predictions
        self._task = task
        self._now = CLOCKS[clock]
        self.figures: dict[str, float] = {}

    def measure(self) -> dict[str, float]:
        """See `Competitor`."""
        self._evaluator.reset()
        self._evaluator.process(_contiguous(self._predictions))
        with contextlib.redirect_stdout(io.StringIO()):
            start = self._now()
            results = self._evaluator.evaluate()
            seconds = self._now() - start
        self.figures = results[self._task]
        return {TOTAL: seconds}

    def memory(self) -> float | None:
        """See `Competitor`."""
        return peak_memory(self.measure)


class ClassRun:
    """A competitor: the evaluation class alone, with its parts `loadRes`, `evaluate` and `accumulate`."""

    def __init__(
        self,
        name: str,
        json_file: Path,
        predictions: list[list[dict]],
        task: str,
        *,
        clock: str,
        implementation: Callable,
    ) -> None:
        self.name = name
        with contextlib.redirect_stdout(io.StringIO()):
            self._truth = COCO(str(json_file))
        self._results = [item for found in predictions for item in found]
        if task == "segm":
            # Else the areas would be those of the boxes.
            self._results = [{k: v for k, v in item.items() if k != "bbox"} for item in self._results]
        self._task = task
        self._now = CLOCKS[clock]
        self._implementation = implementation
        self.figures: dict[str, float] = {}

    def measure(self) -> dict[str, float]:
        """See `Competitor`."""
        results = [dict(item) for item in self._results]
        with contextlib.redirect_stdout(io.StringIO()):
            start = self._now()
            found = self._truth.loadRes(results)
            loaded = self._now()
            evaluation = self._implementation(self._truth, found, self._task)
            evaluation.evaluate()
            matched = self._now()
            evaluation.accumulate()
            end = self._now()
            evaluation.summarize()
        arrays = {name: evaluation.eval[name] for name in ("precision", "recall")}
        flat = np.concatenate([evaluation.stats, *(np.ravel(array) for array in arrays.values())])
        self.figures = dict(enumerate(100 * flat))
        return {
            TOTAL: end - start,
            "loadRes": loaded - start,
            "evaluate": matched - loaded,
            "accumulate": end - matched,
        }

    def memory(self) -> float | None:
        """See `Competitor`."""
        return peak_memory(self.measure)


def competitors(json_file: Path, predictions: list[list[dict]], task: str, clock: str) -> dict[str, list]:
    """Pairs (fast, pycocotools) for "bbox" or "segm", by what they cover."""
    return {
        f"COCOEvaluator, {task}": [
            EvaluatorRun("use_fast_impl=True", json_file, predictions, task, clock=clock, fast=True),
            EvaluatorRun("use_fast_impl=False", json_file, predictions, task, clock=clock, fast=False),
        ],
        f"COCOeval, {task}": [
            ClassRun("COCOeval_opt", json_file, predictions, task, clock=clock, implementation=COCOeval_opt),
            ClassRun("pycocotools", json_file, predictions, task, clock=clock, implementation=COCOeval),
        ],
    }


def largest_difference(a: dict, b: dict) -> float:
    """Largest absolute difference of two sets of figures, in points of AP; a figure that both lack is equal."""
    if a.keys() != b.keys():
        raise ValueError(f"the two sides give different figures: {sorted(a.keys() ^ b.keys(), key=str)[:5]}")
    values = np.array([[a[key], b[key]] for key in a], dtype=float)
    if (np.isnan(values[:, 0]) != np.isnan(values[:, 1])).any():
        return float("inf")
    return float(np.nanmax(np.abs(values[:, 0] - values[:, 1]), initial=0.0))
