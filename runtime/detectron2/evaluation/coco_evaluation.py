"""COCO's metrics for boxes and masks, from a model's ``Instances`` to the AP table."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import itertools
import json
import logging
import os
import pickle
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tabulate import tabulate

import detectron2.utils.comm as comm
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_json
from detectron2.structures import Boxes, BoxMode, Instances, pairwise_iou
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import create_small_table

from .evaluator import DatasetEvaluator
from .fast_eval_api import COCOeval_opt

_METRICS = {
    "bbox": ("AP", "AP50", "AP75", "APs", "APm", "APl"),
    "segm": ("AP", "AP50", "AP75", "APs", "APm", "APl"),
    "keypoints": ("AP", "AP50", "AP75", "APm", "APl"),
}


class COCOEvaluator(DatasetEvaluator):
    """AP of boxes and masks, and AR of proposals, as percentages; NaN is what cannot be computed.

    Works with every dataset of boxes or masks, registered in COCO's format or in detectron2's.

    Args:
        dataset_name: registered name. If its metadata has no ``json_file``, the dataset is converted to a COCO json
            in ``output_dir``.
        tasks: any of "bbox", "segm", "keypoints"; None takes those that the predictions allow.
        distributed: gather the predictions of all processes and evaluate in the main one; else every process
            evaluates its own.
        output_dir: where ``instances_predictions.pth`` and ``coco_instances_results.json`` (COCO's result format) go.
        max_dets_per_image: how many detections of an image and category count, 100 if None.
        use_fast_impl: evaluate with faster-coco-eval instead of pycocotools; same numbers, several times faster.
        kpt_oks_sigmas: per-keypoint sigmas of the OKS; empty for COCO's own.
        allow_cached_coco: take a converted json that is already in ``output_dir``. Pass False when the dataset has
            changed.

    Raises:
        ValueError: the dataset has to be converted and ``output_dir`` is missing, or a task is unknown.
    """

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] | None = None,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        max_dets_per_image: int | None = None,
        use_fast_impl: bool = True,
        kpt_oks_sigmas: Sequence[float] = (),
        allow_cached_coco: bool = True,
    ):
        self._logger = logging.getLogger(__name__)
        self._distributed = distributed
        self._output_dir = output_dir
        if use_fast_impl and importlib.util.find_spec("faster_coco_eval") is None:
            self._logger.info("faster-coco-eval is not installed. Falling back to official COCO eval.")
            use_fast_impl = False
        self._use_fast_impl = use_fast_impl
        self._max_dets_per_image = [1, 10, 100 if max_dets_per_image is None else max_dets_per_image]

        if isinstance(tasks, CfgNode):
            self._logger.warning("COCOEvaluator(name, cfg) is old usage: pass the arguments by name instead")
            kpt_oks_sigmas = kpt_oks_sigmas or tasks.TEST.KEYPOINT_OKS_SIGMAS
            tasks = None
        if unknown := set(tasks or ()) - _METRICS.keys():
            raise ValueError(f"COCOEvaluator knows the tasks {sorted(_METRICS)}, got {sorted(unknown)}")
        self._tasks = tasks
        self._kpt_oks_sigmas = kpt_oks_sigmas

        self._metadata = MetadataCatalog.get(dataset_name)
        if not hasattr(self._metadata, "json_file"):
            if output_dir is None:
                raise ValueError(
                    f"{dataset_name!r} is not in COCO's format: COCOEvaluator needs output_dir to convert it"
                )
            self._logger.info(f"Trying to convert '{dataset_name}' to COCO format ...")
            self._metadata.json_file = os.path.join(output_dir, f"{dataset_name}_coco_format.json")
            convert_to_coco_json(dataset_name, self._metadata.json_file, allow_cached=allow_cached_coco)

        with contextlib.redirect_stdout(io.StringIO()):
            self._coco_api = COCO(PathManager.get_local_path(self._metadata.json_file))
        # the json of a test set has no annotations: its results can only be written to a file
        self._do_evaluation = "annotations" in self._coco_api.dataset
        self._predictions: list[dict[str, Any]] = []

    def reset(self) -> None:
        self._predictions = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Keep the predictions of a batch, masks as RLE.

        Args:
            inputs: of each image, ``image_id`` is read.
            outputs: of each image, ``instances`` (``pred_boxes``, ``scores``, ``pred_classes``, maybe ``pred_masks``)
                and ``proposals`` (``proposal_boxes``, ``objectness_logits``) are read.
        """
        for image, output in zip(inputs, outputs, strict=False):
            image_id = image["image_id"]
            prediction: dict[str, Any] = {}
            if "instances" in output:
                instances = output["instances"].to(torch.device("cpu"))
                prediction["instances"] = instances_to_coco_json(instances, image_id)
            if "proposals" in output:
                prediction["proposals"] = output["proposals"].to(torch.device("cpu"))
            if prediction:
                self._predictions.append({"image_id": image_id, **prediction})

    def evaluate(self, img_ids: Sequence[int] | None = None) -> OrderedDict[str, dict[str, float]] | dict:
        """Compute the metrics.

        Args:
            img_ids: evaluate on these images of the dataset alone.

        Returns:
            ``{task: {metric: percentage}}``; the metrics are AP, AP50, AP75, APs, APm, APl and, where there are
            several categories, ``AP-<category>``. Empty without predictions, without annotations, and in all but the
            main process.
        """
        predictions = self._predictions
        if self._distributed:
            comm.synchronize()
            predictions = list(itertools.chain.from_iterable(comm.gather(predictions, dst=0)))
            if not comm.is_main_process():
                return {}
        if not predictions:
            self._logger.warning("[COCOEvaluator] Did not receive valid predictions.")
            return {}
        if self._output_dir:
            PathManager.mkdirs(self._output_dir)
            with _open_whole(os.path.join(self._output_dir, "instances_predictions.pth"), "wb") as f:
                torch.save(predictions, f)

        self._results: OrderedDict[str, dict[str, float]] = OrderedDict()
        if "proposals" in predictions[0]:
            self._eval_box_proposals(predictions)
        if "instances" in predictions[0]:
            self._eval_predictions(predictions, img_ids=img_ids)
        return copy.deepcopy(self._results)

    def _tasks_from_predictions(self, predictions: Iterable[dict[str, Any]]) -> list[str]:
        has = set().union(*(p.keys() & {"segmentation", "keypoints"} for p in predictions))
        return sorted({"bbox"} | {{"segmentation": "segm"}.get(key, key) for key in has})

    def _dataset_categories(self, results: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The results with the dataset's own category ids in place of the contiguous ones."""
        to_contiguous = getattr(self._metadata, "thing_dataset_id_to_contiguous_id", None)
        if to_contiguous is None:
            return results
        n_classes = len(to_contiguous)
        dataset_id = {contiguous: original for original, contiguous in to_contiguous.items()}
        assert dataset_id.keys() == set(range(n_classes)), (
            f"thing_dataset_id_to_contiguous_id must map to 0 ... {n_classes - 1}, got {sorted(dataset_id)}"
        )
        for result in results:
            assert result["category_id"] in dataset_id, (
                f"A prediction for image {result['image_id']} has class={result['category_id']}, "
                f"but the dataset has the {n_classes} classes 0 ... {n_classes - 1}"
            )
        return [{**result, "category_id": dataset_id[result["category_id"]]} for result in results]

    def _eval_predictions(self, predictions: list[dict[str, Any]], img_ids: Sequence[int] | None = None) -> None:
        self._logger.info("Preparing results for COCO format ...")
        results = list(itertools.chain.from_iterable(p["instances"] for p in predictions))
        tasks = self._tasks or self._tasks_from_predictions(results)
        results = self._dataset_categories(results)
        if self._output_dir:
            path = os.path.join(self._output_dir, "coco_instances_results.json")
            self._logger.info(f"Saving results to {path}")
            with _open_whole(path, "w") as f:
                f.write(json.dumps(results))
        if not self._do_evaluation:
            self._logger.info("Annotations are not available for evaluation.")
            return

        api = "unofficial" if self._use_fast_impl else "official"
        self._logger.info(f"Evaluating predictions with {api} COCO API...")
        implementation = COCOeval_opt if self._use_fast_impl else COCOeval
        limits = {"img_ids": img_ids, "max_dets_per_image": self._max_dets_per_image}
        for task in sorted(tasks):
            coco_eval = None
            if results:  # pycocotools cannot load an empty list
                coco_eval = _evaluate_predictions_on_coco(
                    self._coco_api, results, task, self._kpt_oks_sigmas, implementation, **limits
                )
            names = self._metadata.get("thing_classes")
            self._results[task] = self._derive_coco_results(coco_eval, task, class_names=names)

    def _eval_box_proposals(self, predictions: list[dict[str, Any]]) -> None:
        """Fill in the task "box_proposals": AR at 100 and 1000 proposals, over all areas and each."""
        if self._output_dir:
            proposals = [p["proposals"] for p in predictions]
            saved = {
                "boxes": [p.proposal_boxes.tensor.numpy() for p in proposals],
                "objectness_logits": [p.objectness_logits.numpy() for p in proposals],
                "ids": [p["image_id"] for p in predictions],
                "bbox_mode": BoxMode.XYXY_ABS.value,
            }
            with PathManager.open(os.path.join(self._output_dir, "box_proposals.pkl"), "wb") as f:
                pickle.dump(saved, f)
        if not self._do_evaluation:
            self._logger.info("Annotations are not available for evaluation.")
            return

        self._logger.info("Evaluating bbox proposals ...")
        scores = {}
        for limit, area in itertools.product((100, 1000), ("all", "small", "medium", "large")):
            stats = _evaluate_box_proposals(predictions, self._coco_api, area=area, limit=limit)
            suffix = "" if area == "all" else area[0]
            scores[f"AR{suffix}@{limit:d}"] = 100 * float(stats["ar"])
        self._logger.info("Proposal metrics: \n" + create_small_table(scores))
        self._results["box_proposals"] = scores

    def _derive_coco_results(
        self, coco_eval: COCOeval | None, iou_type: str, class_names: Sequence[str] | None = None
    ) -> dict[str, float]:
        """Read the metrics, as percentages, from an evaluation that was summarized, and log them.

        Args:
            coco_eval: None when there are no predictions; then all metrics are NaN.
            iou_type: the task.
            class_names: with more than one, the AP of each category is added as ``AP-<name>``.
        """
        metrics = _METRICS[iou_type]
        if coco_eval is None:
            self._logger.warning("No predictions from the model!")
            return dict.fromkeys(metrics, float("nan"))

        stats = coco_eval.stats[: len(metrics)]
        results = {
            metric: float(value * 100) if value >= 0 else float("nan")
            for metric, value in zip(metrics, stats, strict=True)
        }
        self._logger.info(f"Evaluation results for {iou_type}: \n" + create_small_table(results))
        if not np.isfinite(list(results.values())).all():
            self._logger.info("Some metrics cannot be computed and is shown as NaN.")
        if class_names is None or len(class_names) <= 1:
            return results

        # (IoU threshold, recall, category, area, max detections): all areas, the largest number of detections
        precision = coco_eval.eval["precision"][:, :, :, 0, -1]
        assert len(class_names) == precision.shape[2], (
            f"The metadata has {len(class_names)} thing_classes, the annotations have {precision.shape[2]} categories"
        )
        per_category = {}
        for i, name in enumerate(class_names):
            valid = precision[:, :, i]
            valid = valid[valid > -1]
            per_category[name] = float(valid.mean() * 100) if valid.size else float("nan")
        self._logger.info(f"Per-category {iou_type} AP: \n" + _category_table(per_category))
        results.update({f"AP-{name}": ap for name, ap in per_category.items()})
        return results


@contextlib.contextmanager
def _open_whole(path: str, mode: str) -> Iterator[IO[Any]]:
    """Open a file that takes its name when it is complete: a full disk leaves the results of an earlier run alone."""
    if "://" in path:  # a remote store has its own way to publish a file
        with PathManager.open(path, mode) as f:
            yield f
        return
    partial = f"{path}.partial"
    try:
        with open(partial, mode) as f:
            yield f
        os.replace(partial, path)
    except BaseException:
        if os.path.lexists(partial):
            os.remove(partial)
        raise


def _category_table(per_category: dict[str, float], columns: int = 3) -> str:
    columns = min(columns, len(per_category))
    cells = [[name, ap] for name, ap in per_category.items()]
    rows = [sum(cells[i : i + columns], []) for i in range(0, len(cells), columns)]
    headers = ["category", "AP"] * columns
    return tabulate(rows, headers=headers, tablefmt="pipe", floatfmt=".3f", numalign="left")


def instances_to_coco_json(instances: Instances, img_id: int) -> list[dict[str, Any]]:
    """The predictions of one image in COCO's result format.

    Args:
        instances: on the CPU: ``pred_boxes`` (xyxy, absolute), ``scores``, ``pred_classes``, and where the model has
            them ``pred_masks`` (N, H, W), binary, and ``pred_keypoints`` (N, K, 3).
        img_id: the image's id in the dataset.

    Returns:
        One dict per instance: image_id, category_id (as predicted), bbox (xywh), score, and maybe segmentation
        (compressed RLE) and keypoints (a flat list of pixel indices, half a pixel less than the coordinates).
    """
    if len(instances) == 0:
        return []
    boxes = BoxMode.convert(instances.pred_boxes.tensor.numpy(), BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
    columns: dict[str, list[Any]] = {
        "category_id": instances.pred_classes.tolist(),
        "bbox": boxes.tolist(),
        "score": instances.scores.tolist(),
    }
    if instances.has("pred_masks"):
        columns["segmentation"] = _encode_masks(instances.pred_masks)
    if instances.has("pred_keypoints"):
        shift = instances.pred_keypoints.new_tensor([0.5, 0.5, 0.0])
        columns["keypoints"] = (instances.pred_keypoints - shift).flatten(1).tolist()
    return [{"image_id": img_id, **dict(zip(columns, row, strict=True))} for row in zip(*columns.values(), strict=True)]


def _encode_masks(masks: Any) -> list[dict[str, Any]]:
    """Compressed RLEs (counts as str) of binary masks (N, H, W): a tensor, an array or BitMasks.

    Encoding walks down the columns of a whole image. Here only the columns from an object's first to its last are
    looked at, as the rest is known to be background.
    """
    array = np.asarray(getattr(masks, "tensor", masks)).astype(bool, copy=False)
    _, height, width = array.shape
    occupied = array.any(axis=1)
    left = occupied.argmax(axis=1)
    right = np.where(occupied.any(axis=1), width - occupied[:, ::-1].argmax(axis=1), 0)
    rles = []
    for mask, x0, x1 in zip(array, left.tolist(), right.tolist(), strict=True):
        # a zero at both ends makes every run start and end in a change
        flat = np.zeros((x1 - x0) * height + 2, dtype=bool)
        flat[1:-1].reshape(x1 - x0, height)[:] = mask[:, x0:x1].T
        changes = np.flatnonzero(flat[1:] != flat[:-1]) + x0 * height
        counts = np.diff(changes, prepend=0, append=height * width)
        if counts[-1] == 0 and len(counts) > 1:  # the object reaches the last pixel
            counts = counts[:-1]
        rle = mask_util.frPyObjects({"size": [height, width], "counts": counts}, height, width)
        rles.append({"size": rle["size"], "counts": rle["counts"].decode("ascii")})
    return rles


def _evaluate_box_proposals(
    dataset_predictions: list[dict[str, Any]],
    coco_api: COCO,
    thresholds: torch.Tensor | None = None,
    area: str = "all",
    limit: int | None = None,
) -> dict[str, Any]:
    """Recall of class-agnostic proposals, each of which may cover one object; crowds do not count.

    Args:
        dataset_predictions: of each image, ``image_id`` and ``proposals``.
        coco_api: the ground truth.
        thresholds: IoUs from which on an object counts as found; 0.5, 0.55, ..., 0.95 if None.
        area: name of a range of object areas in pixels.
        limit: take no more than this many of the best proposals of an image.

    Returns:
        ``ar``, the mean of ``recalls`` over ``thresholds``; ``gt_overlaps``, the ascending IoUs of the objects with
        the proposals that cover them; ``num_pos``, the number of objects in images with proposals.
    """
    sides = {
        "all": (0, 1e5),
        "small": (0, 32),
        "medium": (32, 96),
        "large": (96, 1e5),
        "96-128": (96, 128),
        "128-256": (128, 256),
        "256-512": (256, 512),
        "512-inf": (512, 1e5),
    }
    assert area in sides, f"Unknown area range {area!r}, known are {', '.join(sides)}"
    low, high = (side**2 for side in sides[area])
    covered = [torch.zeros(0)]
    num_pos = 0
    for prediction in dataset_predictions:
        annotations = coco_api.loadAnns(coco_api.getAnnIds(imgIds=prediction["image_id"]))
        boxes = [
            BoxMode.convert(obj["bbox"], BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)
            for obj in annotations
            if obj["iscrowd"] == 0 and low <= obj["area"] <= high
        ]
        proposals = prediction["proposals"]
        if not boxes or len(proposals) == 0:
            continue
        num_pos += len(boxes)
        best_first = proposals.objectness_logits.sort(descending=True)[1][:limit]
        # (objects, proposals)
        iou = pairwise_iou(Boxes(torch.as_tensor(boxes)), proposals.proposal_boxes[best_first])
        found = torch.zeros(len(boxes))
        for i in range(min(iou.shape)):
            # the closest pair of an object and a proposal, both of which are then spent
            obj, proposal = divmod(int(iou.argmax()), iou.shape[1])
            found[i] = iou[obj, proposal]
            iou[obj, :] = -1
            iou[:, proposal] = -1
        covered.append(found)

    gt_overlaps = torch.cat(covered).sort()[0]
    if thresholds is None:
        thresholds = torch.arange(0.5, 0.95 + 1e-5, 0.05, dtype=torch.float32)
    recalls = (gt_overlaps >= thresholds[:, None]).sum(dim=1).float() / float(num_pos)
    stats = {"num_pos": num_pos, "gt_overlaps": gt_overlaps}
    return {"ar": recalls.mean(), "recalls": recalls, "thresholds": thresholds, **stats}


def _load_results(coco_gt: COCO, results: list[dict[str, Any]], iou_type: str) -> COCO:
    """``coco_gt.loadRes`` for boxes or masks, which leaves ``results`` as they are and takes areas in bulk.

    With masks, any boxes in ``results`` are ignored: small, medium and large go by the area of the mask.
    """
    unknown = {result["image_id"] for result in results} - coco_gt.imgs.keys()
    assert not unknown, f"Results do not correspond to current coco set: it lacks the images {sorted(unknown)[:5]}"
    if iou_type == "bbox":
        boxes = [result["bbox"] for result in results]
        areas = [box[2] * box[3] for box in boxes]
    else:
        rles = [result["segmentation"] for result in results]
        # pycocotools cannot count further than 255 in one call
        parts = [rles[i : i + 200] for i in range(0, len(rles), 200)]
        areas = [float(area) for part in parts for area in mask_util.area(part)]
        boxes = [box for part in parts for box in mask_util.toBbox(part).tolist()]
    coco_dt = COCO()
    coco_dt.dataset = {
        "images": coco_gt.dataset["images"],
        "categories": coco_gt.dataset["categories"],
        "annotations": [
            {**result, "id": i, "bbox": box, "area": area, "iscrowd": 0}
            for i, (result, box, area) in enumerate(zip(results, boxes, areas, strict=True), start=1)
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco_dt.createIndex()
    return coco_dt


def _evaluate_predictions_on_coco(
    coco_gt: COCO,
    coco_results: list[dict[str, Any]],
    iou_type: str,
    kpt_oks_sigmas: Sequence[float] | None = None,
    cocoeval_fn: type[COCOeval] = COCOeval_opt,
    img_ids: Sequence[int] | None = None,
    max_dets_per_image: Sequence[int] | None = None,
) -> COCOeval:
    """Run one task of COCO's evaluation and print its table.

    Args:
        coco_gt: the ground truth.
        coco_results: predictions in COCO's result format, at least one.
        iou_type: "bbox", "segm" or "keypoints".
        kpt_oks_sigmas: as in :class:`COCOEvaluator`.
        cocoeval_fn: the implementation.
        img_ids: images to evaluate on, all if None.
        max_dets_per_image: at least three numbers; the third is that for AP.

    Returns:
        The evaluation, with ``stats`` and ``eval``.
    """
    assert len(coco_results) > 0
    if iou_type == "keypoints":
        with contextlib.redirect_stdout(io.StringIO()):
            coco_dt = coco_gt.loadRes([dict(result) for result in coco_results])
        coco_eval = COCOeval(coco_gt, coco_dt, iou_type)
        if kpt_oks_sigmas:
            coco_eval.params.kpt_oks_sigmas = np.array(kpt_oks_sigmas)
        counts = {
            "predictions": len(coco_results[0]["keypoints"]) // 3,
            "ground truth": len(next(iter(coco_gt.anns.values()))["keypoints"]) // 3,
            "kpt_oks_sigmas": len(coco_eval.params.kpt_oks_sigmas),
        }
        assert len(set(counts.values())) == 1, f"The numbers of keypoints do not agree: {counts}"
    else:
        max_dets = [1, 10, 100] if max_dets_per_image is None else list(max_dets_per_image)
        assert len(max_dets) >= 3, f"max_dets_per_image needs three numbers, got {max_dets}"
        if max_dets[2] != 100:
            # COCO's own table is fixed to 100
            cocoeval_fn = _COCOevalMaxDets_opt if issubclass(cocoeval_fn, COCOeval_opt) else COCOevalMaxDets
        coco_eval = cocoeval_fn(coco_gt, _load_results(coco_gt, coco_results, iou_type), iou_type)
        coco_eval.params.maxDets = max_dets
    if img_ids is not None:
        coco_eval.params.imgIds = img_ids
    coco_eval.evaluate()
    coco_eval.accumulate()
    coco_eval.summarize()
    return coco_eval


class COCOevalMaxDets(COCOeval):
    """COCO's evaluation with AP at ``params.maxDets[2]`` detections per image instead of 100; not for keypoints."""

    def summarize(self) -> None:
        if not self.eval:
            raise RuntimeError("Please run accumulate() first")
        max_dets = self.params.maxDets
        areas = ("small", "medium", "large")
        rows: list[tuple[str, float | None, str, int]] = [
            ("AP", None, "all", max_dets[2]),
            ("AP", 0.5, "all", max_dets[2]),
            ("AP", 0.75, "all", max_dets[2]),
            *(("AP", None, area, max_dets[2]) for area in areas),
            *(("AR", None, "all", limit) for limit in max_dets[:3]),
            *(("AR", None, area, max_dets[2]) for area in areas),
        ]
        self.stats = np.array([self._mean(*row) for row in rows])
        for (metric, threshold, area, limit), value in zip(rows, self.stats, strict=True):
            thresholds = self.params.iouThrs if threshold is None else [threshold]
            span = ":".join(f"{t:.2f}" for t in (thresholds[0], thresholds[-1])[: len(thresholds)])
            title = {"AP": "Average Precision", "AR": "Average Recall"}[metric]
            print(f" {title:<18} ({metric}) @[ IoU={span:<9} | area={area:>6s} | maxDets={limit:>3d} ] = {value:0.3f}")

    def _mean(self, metric: str, threshold: float | None, area: str, max_dets: int) -> float:
        """The mean over thresholds, recalls and categories of what could be computed; -1 if nothing could."""
        values = self.eval["precision" if metric == "AP" else "recall"]
        values = values[..., self.params.areaRngLbl.index(area), list(self.params.maxDets).index(max_dets)]
        if threshold is not None:
            values = values[np.asarray(self.params.iouThrs) == threshold]
        values = values[values > -1]
        return float(values.mean()) if values.size else -1.0


class _COCOevalMaxDets_opt(COCOevalMaxDets, COCOeval_opt):
    """Both at once: the fast evaluation, summarized at any number of detections."""
