"""`report.html`: metrics, training curves, precision-recall curves and pictures of one run, in one file."""

import base64
import contextlib
import html
import io
import json
import math
from collections import defaultdict
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import detection_utils as utils
from detectron2.structures import Boxes, Instances
from faster_coco_eval import COCO, COCOeval_faster
from matplotlib.figure import Figure
from pycocotools import mask as mask_utils

from instseg_d2.files import write_whole

from .overlay import draw_instances
from .sheet import side_by_side

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1100px; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: .6em 0 1.6em } td, th { padding: .25em .8em; text-align: right }
th { border-bottom: 2px solid #888 } td:first-child, th:first-child { text-align: left }
tr:nth-child(even) td { background: #f4f4f4 } img { max-width: 100% }
.curves img { width: 49% }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(500px, 1fr)); gap: 10px }
"""


# Narrower images are enlarged to about this many pixels, so that labels do not hide them; wider ones are shrunk to the
# second number, so that the report stays small enough to send.
_PANEL_WIDTH = 300
_PANEL_MAX_WIDTH = 640


def read_metrics(path: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Series of a `metrics.json` (one JSON object a line): `{name: (iterations, values)}`.

    After a resumed training the later of two entries of an iteration counts.
    """
    series: dict[str, dict[int, float]] = defaultdict(dict)
    for line in path.read_text().splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue  # a line that was cut off when the training was killed
        for name, value in record.items():
            if name != "iteration" and isinstance(value, int | float):
                series[name][record["iteration"]] = value
    return {name: tuple(map(list, zip(*sorted(points.items()), strict=True))) for name, points in series.items()}


def precision_recall(ground_truth: Path, predictions: Path, iou_type: str) -> dict[float, np.ndarray]:
    """Precision at 101 recall levels, averaged over the categories that have ground truth.

    Args:
        ground_truth: COCO json.
        predictions: COCO results json.
        iou_type: `"bbox"` or `"segm"`.

    Returns:
        `{IoU threshold: (101,) precision in [0, 1]}` for thresholds 0.5 and 0.75; empty without ground truth.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(ground_truth))
        evaluation = COCOeval_faster(truth, truth.loadRes(str(predictions)), iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
    curves = {}
    for threshold in (0.5, 0.75):
        at = int(np.argmin(np.abs(np.asarray(evaluation.params.iouThrs) - threshold)))
        precision = evaluation.eval["precision"][at, :, :, 0, -1]  # (recall levels, categories), all areas
        evaluated = precision[:, (precision > -1).all(axis=0)]
        if evaluated.size:
            curves[threshold] = evaluated.mean(axis=1)
    return curves


def _figure(draw) -> str:
    figure = Figure(figsize=(5.2, 3.4), dpi=110, layout="constrained")
    draw(figure.subplots())
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return _image_tag(buffer.getvalue(), "png")


def _image_tag(data: bytes, kind: str, title: str = "") -> str:
    encoded = base64.b64encode(data).decode()
    return f'<img src="data:image/{kind};base64,{encoded}" title="{html.escape(title)}" alt="{html.escape(title)}">'


def loss_names(series: dict) -> list[str]:
    """The series that are losses: the total and its `loss_<part>`s, whatever the categories are called."""
    return sorted(name for name in series if name == "total_loss" or name.startswith("loss_"))


def _curves(series: dict) -> str:
    def losses(axes) -> None:
        for name in loss_names(series):
            axes.plot(*series[name], label=name, linewidth=2 if name == "total_loss" else 1)
        axes.set(xlabel="iteration", ylabel="loss", ylim=(0, None))
        axes.legend(fontsize=7)

    def average_precision(axes) -> None:
        for name in ("bbox/AP", "bbox/AP50", "segm/AP", "segm/AP50"):
            if name in series:
                axes.plot(*series[name], marker="o", label=name)
        axes.set(xlabel="iteration", ylabel="AP (%)", ylim=(0, 100))
        axes.legend(fontsize=7)

    def learning_rate(axes) -> None:
        axes.plot(*series["lr"])
        axes.set(xlabel="iteration", ylabel="learning rate")

    figures = [losses] if "total_loss" in series else []
    figures += [average_precision] if len(series.get("segm/AP", ([],))[0]) > 1 else []
    figures += [learning_rate] if "lr" in series else []
    return f'<div class="curves">{"".join(_figure(draw) for draw in figures)}</div>'


def _precision_recall_figures(ground_truth: Path, predictions: Path, tasks: list[str]) -> str:
    def draw_task(task: str):
        curves = precision_recall(ground_truth, predictions, task)

        def draw(axes) -> None:
            for threshold, precision in curves.items():
                axes.plot(np.linspace(0, 1, len(precision)), precision, label=f"IoU {threshold}")
            axes.set(title=task, xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
            if curves:
                axes.legend(fontsize=7)

        return draw

    return f'<div class="curves">{"".join(_figure(draw_task(task)) for task in tasks)}</div>'


def _number(value: float) -> str:
    if value is None or math.isnan(value):
        return "n/a"
    # Most are percent; SSIM and the like are shares of one.
    return f"{value:.3f}" if 0 < abs(value) < 1 else f"{value:.1f}"


def _table(corner: str, columns: dict[str, dict]) -> str:
    """A table of numbers by column and row name; a row for every name that a column has."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in (corner, *columns))
    names = list(dict.fromkeys(name for values in columns.values() for name in values))
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td>{''.join(f'<td>{_number(v.get(name))}</td>' for v in columns.values())}</tr>"
        for name in names
    )
    return f"<table><tr>{head}</tr>{rows}</table>"


def _tables(results: dict) -> str:
    plain = {task: values for task, values in results.items() if "AP50" in values}
    metrics = list(dict.fromkeys(k for values in plain.values() for k in values if not k.startswith("AP-")))
    text = _table("task", {metric: {task: plain[task].get(metric) for task in plain} for metric in metrics})
    by_class = {
        f"{task} AP": {name[3:]: value for name, value in values.items() if name.startswith("AP-")}
        for task, values in plain.items()
    }
    by_class = {task: values for task, values in by_class.items() if values}
    if by_class:
        text += f"<details><summary>per category</summary>{_table('category', by_class)}</details>"
    for task in [task for task in results if task not in plain]:
        # Such as "IoU", "IoU-0.2-0.5", "MOTSA-car": a measure, over everything, a range of hidden shares or a class.
        columns: dict[str, dict] = {}
        for name, value in results[task].items():
            measure, _, part = name.partition("-")
            columns.setdefault(measure, {})[part or "all"] = value
        text += f"<h3>{html.escape(task)}</h3>{_table('part', columns)}"
    return text


def _predicted_instances(found: list[dict], height: int, width: int, class_of: dict[int, int]) -> Instances:
    """Instances of one image from COCO results."""
    boxes = torch.tensor([item["bbox"] for item in found], dtype=torch.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    instances = Instances((height, width), pred_boxes=Boxes(boxes))
    instances.scores = torch.tensor([item["score"] for item in found])
    instances.pred_classes = torch.tensor([class_of[item["category_id"]] for item in found], dtype=torch.long)
    if found and all("segmentation" in item for item in found):
        instances.pred_masks = torch.from_numpy(np.stack([mask_utils.decode(item["segmentation"]) for item in found]))
    return instances


def _shrunk(image: np.ndarray) -> np.ndarray:
    scale = _PANEL_MAX_WIDTH / image.shape[1]
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else image


def draw_results(
    dataset_name: str, predictions: Path, out_dir: Path, *, pictures: int, score_threshold: float = 0.5
) -> list[Path]:
    """Draw ground truth and predictions of a data set's images side by side.

    Args:
        dataset_name: registered, with annotations.
        predictions: COCO results json of that data set.
        out_dir: where the JPEGs go, named after the images.
        pictures: how many, spread evenly over the data set.
        score_threshold: predictions below it are not drawn.

    Returns:
        The files.
    """
    records, metadata = DatasetCatalog.get(dataset_name), MetadataCatalog.get(dataset_name)
    names = metadata.thing_classes
    class_of = metadata.thing_dataset_id_to_contiguous_id
    found = defaultdict(list)
    for item in json.loads(predictions.read_text()):
        found[item["image_id"]].append(item)
    out_dir.mkdir(parents=True, exist_ok=True)
    files = []
    for index in np.unique(np.linspace(0, len(records) - 1, min(pictures, len(records))).astype(int)):
        record = records[index]
        image = utils.read_image(record["file_name"], "BGR")
        size = image.shape[:2]
        enlarge = max(1, round(_PANEL_WIDTH / image.shape[1]))
        draw = partial(draw_instances, image, class_names=names, score_threshold=score_threshold, enlarge=enlarge)
        panels = [cv2.resize(image, None, fx=enlarge, fy=enlarge, interpolation=cv2.INTER_CUBIC)]
        captions = ["image"]
        if record.get("annotations"):
            kept = [item for item in record["annotations"] if not item.get("iscrowd", 0)]
            truth = utils.annotations_to_instances(
                [utils.transform_instance_annotations(dict(item), [], size) for item in kept], size, "bitmask"
            )
            panels.append(draw(truth))
            captions.append(f"ground truth ({len(truth)})")
        predicted = _predicted_instances(found[record["image_id"]], *size, class_of)
        shown = int((predicted.scores >= score_threshold).sum())
        panels.append(draw(predicted))
        captions.append(f"predictions, score >= {score_threshold:g} ({shown})")
        path = out_dir / f"{Path(record['file_name']).stem}.jpg"
        cv2.imwrite(str(path), side_by_side([_shrunk(panel) for panel in panels], captions))
        files.append(path)
    return files


def _prediction_sections(dataset_name: str, output_dir: Path, results: dict, pictures: int) -> list[str]:
    """Curves and pictures of the instances found; needs `coco_instances_results.json`."""
    predictions, sections = output_dir / "coco_instances_results.json", []
    if json.loads(predictions.read_text()):
        tasks = [task for task in ("bbox", "segm") if task in results]
        ground_truth = Path(MetadataCatalog.get(dataset_name).json_file)
        sections += [
            "<h2>Precision and recall, mean over categories</h2>",
            _precision_recall_figures(ground_truth, predictions, tasks),
        ]
    files = draw_results(dataset_name, predictions, output_dir / "overlays", pictures=pictures)
    grid = "".join(_image_tag(path.read_bytes(), "jpeg", path.name) for path in files)
    return [*sections, "<h2>Pictures</h2>", f'<div class="grid">{grid}</div>']


def write_report(output_dir: Path, dataset_name: str, *, pictures: int = 16) -> Path:
    """Write `report.html` and `overlays/` into the output folder of a run that has been evaluated.

    Args:
        output_dir: holds `results.json`, for a set of images `coco_instances_results.json`, and `metrics.json` after a
            training.
        dataset_name: the registered data set of the evaluation.
        pictures: how many images to draw.

    Returns:
        The html file, which needs no other file.
    """
    results = json.loads((output_dir / "results.json").read_text())
    metrics = output_dir / "metrics.json"
    sections = [f"<h2>Metrics on {html.escape(dataset_name)}</h2>", _tables(results)]
    if metrics.is_file():
        sections += ["<h2>Training</h2>", _curves(read_metrics(metrics))]
    # Evaluators of videos write tracks, not instances of images.
    if MetadataCatalog.get(dataset_name).get("evaluator_type") == "coco":
        sections += _prediction_sections(dataset_name, output_dir, results, pictures)
    title = html.escape(output_dir.resolve().name)
    path = output_dir / "report.html"
    write_whole(
        path,
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{title}</h1>{''.join(sections)}</body></html>",
    )
    return path
