"""Quality of the masks alone: their IoU when the true boxes and classes are given to the model."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import inference_context
from detectron2.structures import Boxes, BoxMode, Instances
from detectron2.utils import comm
from detectron2.utils.logger import create_small_table
from pycocotools import mask as mask_util
from torch import nn
from tqdm import tqdm

from instseg_d2.data import DatasetError

from .instance_subsets import OCCLUSION_BINS, in_range, occlusion_subsets
from .truth import Annotation, GroundTruth, ImageTruth

_log = logging.getLogger(__name__)


class GivenBoxesEvaluation:
    """Mean mask IoU over the instances of a data set, each predicted in its true box, with its true class.

    Detection plays no part, so this compares mask heads. Masks are compared at the size of the image file, as the
    model's own postprocessing pastes them. Every instance counts once and the same. Crowd regions are left out, and
    instances without a box or mask of any area.

    It is a callable for `dataloader.further_evaluations`, see `instseg_d2.engine.run.evaluate`.

    Args:
        loader: batches of detectron2's test loader. `image` may be resized, but neither cropped nor flipped.
        dataset_name: the data set that the loader reads; its annotation file has the truth.
        bins: ranges (low, high] of the hidden share, or [x, x] for exactly x; empty for data that do not say it.
        masks: entry of the annotations with the true masks, such as "amodal_segmentation" for an amodal model.
        category_subsets: by name, a split of `instseg_d2.data.category_splits` or names of categories; each is a task
            of its own beside that of all categories.

    Raises:
        DatasetError: the data set has no annotation file, or lacks a category; in a call, it lacks what is asked for.
        ValueError: a bin is no range within [0, 1].
    """

    def __init__(
        self,
        *,
        loader: Iterable[list[dict[str, Any]]],
        dataset_name: str,
        bins: Iterable[Sequence[float]] = OCCLUSION_BINS,
        masks: str = "segmentation",
        category_subsets: Mapping[str, str | Iterable[str]] | None = None,
    ):
        self._loader = loader
        self._truth = GroundTruth(dataset_name)
        self._bins = [tuple(ends) for ends in bins]
        self._labels = list(occlusion_subsets(self._bins))
        self._masks = masks
        # As detectron2 numbers the classes of COCO files, should the metadata not say it.
        contiguous = {key: index for index, key in enumerate(sorted(self._truth.coco.cats))}
        self._classes = MetadataCatalog.get(dataset_name).get("thing_dataset_id_to_contiguous_id") or contiguous
        self._subsets = {
            name: self._truth.category_ids(categories) for name, categories in (category_subsets or {}).items()
        }

    def __call__(self, model: nn.Module) -> dict[str, dict[str, float]]:
        """Evaluate a model with detectron2's `inference(batched_inputs, detected_instances=...)`, on every process.

        Returns:
            On the main process `{"given_boxes": {...}}` with `IoU` and `IoU-<range>`, in percent and NaN without
            instances, and their numbers, `instances` and `instances-<range>`, and the same for each of the category
            subsets, `"given_boxes_<subset>"`; `{}` on others.

        Raises:
            TypeError: the model does not take boxes, or gives no masks for them.
        """
        if not hasattr(model, "inference"):
            raise TypeError(f"{type(model).__name__} has no inference(..., detected_instances=...) to give boxes to")
        found: dict[Any, tuple[float, float]] = {}
        with inference_context(model), torch.no_grad():
            for batch in tqdm(
                self._loader, "masks in given boxes", unit="batch", disable=None if comm.is_main_process() else True
            ):
                found.update(self._batch(model, batch))
        gathered = comm.gather(found)
        if not comm.is_main_process():
            return {}
        found = {key: value for part in gathered for key, value in part.items()}
        results = {"given_boxes": self._summary(found)}
        for name, categories in self._subsets.items():
            chosen = {key: found[key] for key in found if self._truth.coco.anns[key]["category_id"] in categories}
            results[f"given_boxes_{name}"] = self._summary(chosen)
        for task, figures in results.items():
            _log.info(f"Mask IoU with the true boxes given ({task}):\n{create_small_table(figures)}")
        return results

    def _batch(self, model: nn.Module, batch: list[dict[str, Any]]) -> dict[Any, tuple[float, float]]:
        """IoU and hidden share (0 without bins) of each instance of a batch, by annotation id."""
        images = [self._truth.image(record["image_id"]) for record in batch]
        usable = [self._usable(image) for image in images]
        work = [entry for entry in zip(batch, images, usable, strict=True) if entry[2]]
        if not work:
            return {}
        given = [self._given(*entry) for entry in work]
        outputs = model.inference([record for record, _, _ in work], detected_instances=given)
        found = {}
        for output, (_, image, annotations) in zip(outputs, work, strict=True):
            ious = self._ious(model, output["instances"], image, annotations)
            for annotation, iou in zip(annotations, ious, strict=True):
                found[annotation["id"]] = iou, image.covered(annotation) if self._bins else 0.0
        return found

    def _usable(self, image: ImageTruth) -> list[Annotation]:
        """The instances of an image that have a box inside it and a mask."""
        boxes = _boxes(image, image.objects)
        boxes.clip((image.height, image.width))
        return [
            annotation
            for annotation, has_box in zip(image.objects, boxes.nonempty().tolist(), strict=True)
            if has_box and mask_util.area(image.mask(annotation, self._masks)) > 0
        ]

    def _given(self, record: dict[str, Any], image: ImageTruth, annotations: list[Annotation]) -> Instances:
        """The annotations as detections in the pixels of the network's input."""
        height, width = record["image"].shape[-2:]
        given = Instances((height, width))
        given.pred_boxes = _boxes(image, annotations)
        given.pred_boxes.scale(width / image.width, height / image.height)
        given.pred_boxes.clip((height, width))
        given.pred_classes = torch.tensor([self._classes[annotation["category_id"]] for annotation in annotations])
        given.scores = torch.ones(len(annotations))
        return given

    def _ious(
        self, model: nn.Module, instances: Instances, image: ImageTruth, annotations: list[Annotation]
    ) -> list[float]:
        if not instances.has("pred_masks") or len(instances) != len(annotations):
            raise TypeError(
                f"{type(model).__name__}.inference was given {len(annotations)} boxes for image {image.id!r} and "
                f"returned {len(instances)} instances with {', '.join(instances.get_fields())}; it must return "
                "'pred_masks' for each box, in their order"
            )
        if tuple(instances.image_size) != (image.height, image.width):
            raise DatasetError(
                f"image {image.id!r} is {image.height} x {image.width} px in {self._truth.json_file}, but its "
                f"predictions are {instances.image_size[0]} x {instances.image_size[1]} px: correct the file"
            )
        planes = np.asarray(instances.pred_masks.to("cpu", torch.uint8)).transpose(1, 2, 0)
        predicted = mask_util.encode(np.asfortranarray(planes))
        true = [image.mask(annotation, self._masks) for annotation in annotations]
        # One pair a call: the others of the matrix would be thrown away.
        return [float(mask_util.iou([one], [other], [0])[0, 0]) for one, other in zip(predicted, true, strict=True)]

    def _summary(self, found: dict[Any, tuple[float, float]]) -> dict[str, float]:
        ious, shares = np.array(list(found.values()), dtype=np.float64).reshape(-1, 2).T
        results = {"IoU": _percent(ious), "instances": len(ious)}
        for label, ends in zip(self._labels, self._bins, strict=True):
            chosen = ious[[in_range(share, *ends) for share in shares]]
            results |= {f"IoU-{label}": _percent(chosen), f"instances-{label}": len(chosen)}
        return results


def _boxes(image: ImageTruth, annotations: list[Annotation]) -> Boxes:
    """Boxes of annotations, xyxy in pixels of the image file."""
    boxes = [BoxMode.convert(annotation["bbox"], BoxMode.XYWH_ABS, BoxMode.XYXY_ABS) for annotation in annotations]
    return Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))


def _percent(ious: np.ndarray) -> float:
    return float(ious.mean() * 100) if len(ious) else float("nan")
