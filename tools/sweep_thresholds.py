#!/usr/bin/env python
"""How the threshold of masks matters: a trained model's mask quality by threshold; `--help` explains it."""

import argparse
import contextlib
import csv
import inspect
import io
import itertools
import math
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import torch
from detectron2.config import instantiate
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances
from detectron2.utils.registry import locate
from matplotlib.figure import Figure
from omegaconf import DictConfig
from tabulate import tabulate
from torch import nn

from instseg_d2.checkpoint import load_weights
from instseg_d2.data import DatasetError
from instseg_d2.data.media import load_image
from instseg_d2.engine.mistakes import USER_MISTAKES, describe
from instseg_d2.engine.overrides import SettingError, apply_overrides
from instseg_d2.engine.run import resolve_device
from instseg_d2.evaluation import GivenBoxesEvaluation
from instseg_d2.evaluation.mask_thresholds import (
    MaskRule,
    UnsuitableModelError,
    evaluate_detections,
    evaluate_given_boxes,
    fixed_threshold,
    learned_thresholds,
    probabilities,
    raw_predictions,
)
from instseg_d2.files import write_whole
from instseg_d2.model_zoo import get_config
from instseg_d2.visualization.panels import Heat, Panel, Tint
from instseg_d2.visualization.strips import draw_strips

_EPILOG = """\
Figure 4 of the ATMask R-CNN paper, in numbers: masks are the pixels whose probability reaches a threshold. Each of
--thresholds makes them from the same predictions; a model that predicts thresholds itself (ATMask R-CNN) is shown
beside them, with fixed thresholds on its own probability map:
  P >= T            the method: compared in each cell of the 28 x 28 map, then pasted into the image
  P >= T, by pixel  pasted first, then compared in each pixel
Its gain over P >= 0.5 is what the thresholds add; its gain over a Mask R-CNN holds the gain of joint training too.
The best fixed threshold is chosen on the very set that it is measured on: no fair rival, but an upper bound.

Measured on the recipe's test set (dataloader.test): mask AP of detections, and the mean IoU of masks predicted in the
true boxes, where detection plays no part. The model runs once over the set for each of the two.

The output folder gets thresholds.csv (every figure), thresholds.png (the curves) and, of --pictures images, the
probabilities and the masks by each rule.

examples:
  python tools/sweep_thresholds.py --config-file Baselines/mask_rcnn_r50_fpn_coco_1x --weights FILE --output out
  python tools/sweep_thresholds.py --config-file ATMask/atmask_r50_fpn_coco_1x --weights FILE --output out \\
      --thresholds 0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9
  python tools/sweep_thresholds.py --config-file CONFIG --weights FILE --output out dataloader.test.batch_size=8
"""
# Those that there are, in the printed table.
_SHOWN = {
    "segm/AP": "AP",
    "segm/AP50": "AP50",
    "segm/AP75": "AP75",
    "segm_by_occlusion/AP-0.2-1": "AP, hidden > 20 %",
    "given_boxes/IoU": "IoU in true boxes",
    "given_boxes/IoU-0.2-1": "IoU, hidden > 20 %",
}
Row = dict[str, Any]


def dataset_name(cfg: DictConfig) -> str:
    """The data set of the evaluation.

    Raises:
        SettingError: there are several.
    """
    names = cfg.dataloader.test.dataset.names
    if not isinstance(names, str) and len(names) != 1:
        raise SettingError(f"dataloader.test.dataset.names: {len(names)} data sets; thresholds are swept on one")
    return names if isinstance(names, str) else names[0]


def make_evaluator(node: DictConfig) -> DatasetEvaluator:
    """The recipe's evaluator, for masks alone where it can be asked for that, and without files of predictions."""
    target = node["_target_"]
    known = inspect.signature(locate(target) if isinstance(target, str) else target).parameters
    only_masks = {key: value for key, value in (("tasks", ("segm",)), ("output_dir", None)) if key in known}
    arguments = {key: value for key, value in node.items() if key != "_target_"}
    return instantiate({"_target_": target, **arguments, **only_masks})


def make_given_boxes(cfg: DictConfig, loader: Iterable[list[dict]]) -> GivenBoxesEvaluation:
    """The recipe's evaluation with given boxes on another loader; one without ranges of occlusion if it has none."""
    for node in cfg.dataloader.get("further_evaluations") or ():
        target = node["_target_"]
        if (locate(target) if isinstance(target, str) else target) is GivenBoxesEvaluation:
            return GivenBoxesEvaluation(**{k: v for k, v in node.items() if k != "_target_"} | {"loader": loader})
    return GivenBoxesEvaluation(loader=loader, dataset_name=dataset_name(cfg), bins=())


def measure(cfg: DictConfig, model: nn.Module, rules: list[MaskRule]) -> list[Row]:
    """A row for each rule: `rule`, `threshold` (None for a learned one), and metrics in percent by `task/metric`.

    Raises:
        DatasetError: the data set has no ground truth.
    """
    evaluators = [make_evaluator(cfg.dataloader.evaluator) for _ in rules]
    chatter = io.StringIO()  # COCO's own tables, one for each rule
    with contextlib.redirect_stdout(chatter):
        detected = evaluate_detections(model, instantiate(cfg.dataloader.test), rules, evaluators)
        if not all("segm" in results for results in detected):
            name = dataset_name(cfg)
            raise DatasetError(f"dataloader.evaluator gives no mask AP: does '{name}' have annotations with masks?")
        given = evaluate_given_boxes(model, instantiate(cfg.dataloader.test), rules, partial(make_given_boxes, cfg))
    return [
        {"rule": rule.name, "threshold": rule.threshold}
        | {f"{task}/{name}": value for task, metrics in (ap | iou).items() for name, value in metrics.items()}
        for rule, ap, iou in zip(rules, detected, given, strict=True)
    ]


def table(rows: list[Row]) -> str:
    """The main figures, as printed."""
    keys = [key for key in _SHOWN if key in rows[0]]
    cells = [[row["rule"], *(row[key] for key in keys)] for row in rows]
    return tabulate(cells, headers=["masks", *(_SHOWN[key] for key in keys)], floatfmt=".2f", missingval="-")


def summary(rows: list[Row]) -> list[str]:
    """Per measure the best fixed threshold, and what a learned one gains over it and over the usual 0.5."""
    lines = []
    for key in ("segm/AP", "given_boxes/IoU"):
        known = [row for row in rows if not math.isnan(row[key])]
        fixed = [row for row in known if row["threshold"] is not None]
        if not fixed:
            continue
        best = max(fixed, key=lambda row: row[key])
        lines.append(f"{_SHOWN[key]}: best fixed threshold {best['threshold']:g} ({best[key]:.2f})")
        references = [("the best", best), *(("0.5", row) for row in fixed if row["threshold"] == 0.5)]
        for row in known:
            if row["threshold"] is None:
                gains = " and ".join(f"{row[key] - other[key]:+.2f} to {name}" for name, other in references)
                lines[-1] += f"; {row['rule']}: {row[key]:.2f}, {gains}"
    return lines


def curves(rows: list[Row], title: str) -> bytes:
    """A PNG: mask AP and IoU in true boxes by threshold; learned thresholds as level lines."""
    figure = Figure(figsize=(10.5, 4.4), dpi=110, layout="constrained")
    figure.suptitle(title, fontsize=11)
    groups = (("mask AP (%)", ("segm/AP", "segm/AP75")), ("mask IoU in true boxes (%)", tuple(_SHOWN)[-2:]))
    for axes, (label, keys) in zip(figure.subplots(1, 2), groups, strict=True):
        _draw_curves(axes, rows, [key for key in keys if key in rows[0]])
        axes.set(xlabel="threshold of the probability", ylabel=label)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _draw_curves(axes, rows: list[Row], keys: list[str]) -> None:
    fixed = [row for row in rows if row["threshold"] is not None]
    learned = [row for row in rows if row["threshold"] is None]
    for number, key in enumerate(keys):
        axes.plot(
            [row["threshold"] for row in fixed],
            [row[key] for row in fixed],
            marker="o",
            color=f"C{number}",
            label=_SHOWN[key],
        )
        for row, style in zip(learned, ("--", ":"), strict=False):
            axes.axhline(row[key], linestyle=style, color=f"C{number}", label=f"{_SHOWN[key]}, {row['rule']}")


def write_csv(path: Path, rows: list[Row]) -> None:
    """Write all figures, a line for each rule."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, text.getvalue())


def draw(cfg: DictConfig, model: nn.Module, rules: list[MaskRule], args: argparse.Namespace) -> None:
    """Write, for the first images with detections, the probabilities and the masks by each rule."""
    names = MetadataCatalog.get(dataset_name(cfg)).get("thing_classes")
    panels = [Panel("probability P", "pred_probabilities", Heat()), Panel("threshold T", "pred_thresholds", Heat())]
    panels += [Panel(rule.name, f"masks of {rule.name}", Tint(on_image=True, alpha=0.5)) for rule in rules]
    records = itertools.chain.from_iterable(instantiate(cfg.dataloader.test))
    left = args.pictures
    model.eval()
    while left and (record := next(records, None)) is not None:
        with torch.no_grad():
            (found,) = raw_predictions(model, [record])
        found = found[(found.scores >= args.score_threshold) & found.pred_boxes.nonempty()]
        if not len(found):
            continue
        left -= 1
        image = load_image(Path(record["file_name"]))
        strips = draw_strips(image, _with_masks(found, rules, image.shape[:2]), names, panels=panels)
        path = args.output / f"{Path(record['file_name']).stem}_thresholds.png"
        write_whole(path, cv2.imencode(".png", strips)[1].tobytes())


def _with_masks(found: Instances, rules: list[MaskRule], size: tuple[int, int]) -> Instances:
    """Instances in pixels of the image, with P, T if there is one, and the masks by each rule as a field of its own."""
    kept = rules[0](found, *size)
    fields = {"pred_boxes": kept.pred_boxes, "pred_classes": kept.pred_classes, "scores": kept.scores}
    instances = Instances(size, **fields, pred_probabilities=probabilities(found))
    if found.has("pred_thresholds"):
        instances.pred_thresholds = found.pred_thresholds
    for rule in rules:
        instances.set(f"masks of {rule.name}", rule(found, *size).pred_masks)
    return instances


def run(args: argparse.Namespace) -> None:
    """Measure, print and write."""
    cfg = apply_overrides(get_config(args.config_file), args.opts)
    title = f"{args.config_file} on {dataset_name(cfg)}"
    model = instantiate(cfg.model).to(resolve_device(args.device))
    load_weights(model, args.weights)
    rules = [fixed_threshold(value) for value in sorted(set(args.thresholds))] + learned_thresholds(model)
    args.output.mkdir(parents=True, exist_ok=True)
    rows = measure(cfg, model, rules)
    print(table(rows), *summary(rows), sep="\n")
    write_csv(args.output / "thresholds.csv", rows)
    write_whole(args.output / "thresholds.png", curves(rows, title))
    draw(cfg, model, rules, args)
    print(f"curves, all figures and pictures: {args.output}")


def _numbers(text: str) -> list[float]:
    values = [float(part) for part in text.split(",")]
    if not all(0 < value < 1 for value in values):
        raise argparse.ArgumentTypeError("thresholds lie between 0 and 1")
    return values


def parse() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Mask AP and mask IoU of a trained model by the threshold that makes masks of probabilities.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config-file", required=True, metavar="FILE_OR_NAME", help="the recipe: a file or a name")
    parser.add_argument("--weights", required=True, help="checkpoint of that recipe")
    parser.add_argument("--output", required=True, type=Path, help="folder for table, curves and pictures")
    parser.add_argument(
        "--thresholds", type=_numbers, default="0.3,0.5,0.7", metavar="T,T,...", help="default 0.3,0.5,0.7"
    )
    parser.add_argument("--pictures", type=int, default=4, metavar="N", help="images to draw (default 4)")
    parser.add_argument("--score-threshold", type=float, default=0.5, help="of what is drawn (default 0.5)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default auto)")
    parser.add_argument("opts", nargs="*", metavar="key=value", help="overrides of config keys, as of train_net.py")
    return parser


def main() -> int:
    """Parse and run; a mistake of the user is one sentence."""
    parser = parse()
    args = parser.parse_intermixed_args()
    try:
        run(args)
    except (*USER_MISTAKES, UnsuitableModelError) as error:
        parser.exit(2, f"{parser.prog}: error: {describe(error, args.output)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
