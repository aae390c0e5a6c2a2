"""COCO's AP of the masks of single video frames, without regard to identities, as BDD100K's server computes it."""

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from pycocotools import mask as mask_util

from instseg_d2.data.instance_maps import InstanceMap
from instseg_d2.data.run_lengths import encode_mask

FRAME_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


class FrameAP:
    """Collects frames and evaluates them.

    Regions of the truth that are to be ignored are COCO's crowds: a detection inside of one is neither right nor wrong.

    Args:
        class_names: of the data set.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        self._class_names = list(class_names)
        self._images: list[dict] = []
        self._annotations: list[dict] = []
        self._detections: list[dict] = []

    def add(self, truth: InstanceMap, labels: Iterable[Mapping[str, Any]]) -> None:
        """Take a frame.

        Args:
            truth: annotated instances; those of a class that there is not are left out.
            labels: detections as Scalabel has them, with `category`, `score` and `rle`.
        """
        height, width = truth.index.shape
        image = len(self._images) + 1
        self._images.append({"id": image, "height": height, "width": width})
        for number, (category, ignored) in enumerate(zip(truth.classes, truth.ignored, strict=True)):
            if 0 <= category < len(self._class_names):
                mask = encode_mask(truth.index == number + 1)
                self._annotations.append(self._region(self._annotations, image, int(category), mask, int(ignored)))
        for label in labels:
            category = self._class_names.index(label["category"])
            region = self._region(self._detections, image, category, dict(label["rle"]))
            self._detections.append({**region, "score": float(label["score"])})

    @staticmethod
    def _region(earlier: list, image: int, category: int, mask: dict, crowd: int = 0) -> dict[str, Any]:
        return {
            "id": len(earlier) + 1,
            "image_id": image,
            "category_id": category + 1,
            "iscrowd": crowd,
            "segmentation": mask,
            "area": int(mask_util.area(mask)),
            "bbox": mask_util.toBbox(mask).tolist(),
        }

    def figures(self) -> dict[str, float]:
        """`FRAME_METRICS` and `AP-<class>`, in percent; NaN where there is nothing to find."""
        categories = [{"id": number, "name": name} for number, name in enumerate(self._class_names, start=1)]
        shared = {"info": {}, "images": self._images, "categories": categories}
        with contextlib.redirect_stdout(io.StringIO()):
            truth, found = (COCO({**shared, "annotations": one}) for one in (self._annotations, self._detections))
            evaluation = COCOeval_faster(truth, found, "segm")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        values = [float(value) for value in evaluation.stats[: len(FRAME_METRICS)]]
        figures = dict(zip(FRAME_METRICS, values, strict=True))
        # (thresholds, recalls, classes) over all areas, of the 100 best
        precision = np.asarray(evaluation.eval["precision"])[..., 0, -1]
        figures |= {f"AP-{name}": float(precision[..., at].mean()) for at, name in enumerate(self._class_names)}
        return {name: 100 * value if value > -1 else float("nan") for name, value in figures.items()}
