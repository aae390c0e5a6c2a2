#!/usr/bin/env python
"""How other objects in the box spoil a model's masks: AP by overlap, wrong pixels, overlap on images; see `--help`."""

import argparse
import csv
import io
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import detection_utils as utils
from matplotlib.figure import Figure
from pycocotools import mask as mask_util
from tabulate import tabulate

from instseg_d2.data import DatasetError, category_names, other_categories
from instseg_d2.engine.mistakes import USER_MISTAKES, describe
from instseg_d2.engine.overrides import SettingError
from instseg_d2.evaluation import GroundTruth, ImageTruth
from instseg_d2.evaluation.overlap import ap_by_overlap, attribute_false_positives, read_results
from instseg_d2.files import write_whole
from instseg_d2.visualization.overlaps import draw_overlaps
from instseg_d2.visualization.samples import sheets
from instseg_d2.visualization.sheet import side_by_side

_EPILOG = """\
Figures 2 and 3 and Table 2 of "Rethinking mask heads for partially supervised instance segmentation", for one or
several models, from the predictions that their evaluations wrote (coco_instances_results.json in the output folder).

  overlap       O of an object: the largest share of its box that the mask of one other object of the image fills,
                whatever the category. Rows are ranges low < O <= high, the first one with O = 0, and O >= --threshold
  AP            of masks. Objects outside of the range are ignored, and false detections count in every range: compare
                models, not ranges
  wrong pixels  those of masks outside of their own object: on the background, on other objects of seen categories, on
                other objects of unseen ones. A detection belongs to the object of its class whose box has an IoU of 0.5
                or more with its own; detections without one are left out

The output folder gets overlap.csv, false_positives.csv and overlap.png; with --draw N also objects_00.png, ..., which
show the overlap of every object on N images (at random of those with two objects or more, the same in each call): box
and outline of the mask, O as caption, orange where O >= --threshold and blue elsewhere, and shaded inside of the box
the other object's mask that O counts. --draw needs no predictions.

examples:
  python tools/analyze_overlap.py --dataset coco_2017_val --seen coco_voc --output out \\
      --predictions agnostic=output/a/coco_instances_results.json student=output/b/coco_instances_results.json
  python tools/analyze_overlap.py --dataset instances_val.json --seen person car --of all --output out \\
      --predictions output/run1/coco_instances_results.json
  python tools/analyze_overlap.py --dataset occshapes_val --draw 12 --output out
  python tools/analyze_overlap.py --dataset instances_val.json --image-root images --draw 12 --output out
"""
_SIDE = 480  # longer side of a drawn image, pixels
_AREAS = {"background": "C7", "seen": "C0", "unseen": "C1"}
Row = dict[str, Any]


def open_truth(dataset: str, image_root: Path | None = None) -> GroundTruth:
    """The annotations that the command line means: a registered name, or a COCO file and the folder of its images.

    Raises:
        FileNotFoundError: there is no such data set.
        SettingError: a registered one has its own images.
    """
    if dataset in DatasetCatalog.list():
        if image_root is not None:
            raise SettingError(f"--image-root is for a COCO file; the data set '{dataset}' has its own images")
        return GroundTruth(dataset)
    if not Path(dataset).is_file():
        raise FileNotFoundError(f"--dataset {dataset}: neither a file nor a registered data set")
    folder = {} if image_root is None else {"image_root": str(image_root)}
    MetadataCatalog.get(dataset).set(json_file=dataset, **folder)
    return GroundTruth(dataset)


def measured_categories(truth: GroundTruth, seen: list[str], of: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the seen categories, and of those to measure.

    Raises:
        DatasetError: see `category_names`.
    """
    names = [truth.coco.cats[key]["name"] for key in sorted(truth.coco.cats)]
    # One word is the name of a split, or of a category of this data set.
    split = seen[0] if len(seen) == 1 and seen[0] not in names else seen
    known = category_names(split, names)
    return known, {"seen": known, "unseen": other_categories(split, names), "all": tuple(names)}[of]


def measure(args: argparse.Namespace, truth: GroundTruth) -> tuple[list[Row], list[Row]]:
    """Rows of AP by overlap, and of wrong pixels, each with its `model`."""
    seen, categories = measured_categories(truth, args.seen, args.of)
    by_overlap, wrong = [], []
    for name, path in args.predictions:
        results = read_results(path, truth)
        rows = ap_by_overlap(truth, results, categories=categories, threshold=args.threshold)
        by_overlap += [{"model": name, **row} for row in rows]
        found = attribute_false_positives(truth, results, seen=seen, categories=categories)
        pixels = found.background + found.seen + found.unseen
        wrong.append({"model": name, **found.shares(), "pixels": pixels, "detections": found.detections})
    return by_overlap, wrong


def tables(by_overlap: list[Row], wrong: list[Row]) -> str:
    """What is printed: AP with a column for each model, and the shares of wrong pixels."""
    models = list(dict.fromkeys(row["model"] for row in by_overlap))
    lines: dict[str, list] = {}
    for row in by_overlap:
        lines.setdefault(row["overlap"], [row["overlap"], row["instances"]]).append(row["AP"])
    aps = tabulate(lines.values(), headers=["overlap", "instances", *(f"AP {name}" for name in models)], floatfmt=".2f")
    headers = {"background": "background (%)", "seen": "seen objects (%)", "unseen": "unseen objects (%)"}
    shares = tabulate(wrong, headers=headers | {key: key for key in ("model", "pixels", "detections")}, floatfmt=".1f")
    return f"{aps}\n\nwrong pixels of masks\n{shares}"


def picture(by_overlap: list[Row], wrong: list[Row], title: str) -> bytes:
    """A PNG: AP by range of the overlap, a line for each model; and what wrong pixels lie on, a bar for each."""
    figure = Figure(figsize=(11, 4.4), dpi=110, layout="constrained")
    figure.suptitle(title, fontsize=11)
    left, right = figure.subplots(1, 2)
    for model in dict.fromkeys(row["model"] for row in by_overlap):
        rows = [row for row in by_overlap if row["model"] == model][1:-1]
        places = range(len(rows))
        left.plot(places, [row["AP"] for row in rows], marker="o", label=model)
    left.set_xticks(places, [row["overlap"] for row in rows], rotation=45)
    left.set(xlabel="overlap", ylabel="mask AP (%)", ylim=(0, None))
    left.grid(alpha=0.3)
    left.legend(fontsize=8)
    start = [0.0] * len(wrong)
    for area, colour in _AREAS.items():
        shares = [row[area] if row["pixels"] else 0.0 for row in wrong]
        right.barh([row["model"] for row in wrong], shares, left=start, color=colour, label=area)
        start = [before + share for before, share in zip(start, shares, strict=True)]
    right.set(xlabel="wrong pixels of masks (%)", xlim=(0, 100))
    right.invert_yaxis()
    right.legend(fontsize=8, ncols=len(_AREAS), loc="lower center", bbox_to_anchor=(0.5, 1.0))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def draw_image(image: ImageTruth, names: dict[int, str], threshold: float) -> np.ndarray:
    """An image with the overlap of its objects, BGR, under its name.

    Raises:
        DatasetError: the image has another size than the annotations say.
    """
    pixels = utils.read_image(image.file, "BGR")
    if pixels.shape[:2] != (image.height, image.width):
        raise DatasetError(f"{image.file} is {pixels.shape[:2]}, the annotations say {image.height, image.width}")
    corners = np.array([one["bbox"] for one in image.objects], dtype=float)
    corners[:, 2:] += corners[:, :2]
    masks = np.stack([mask_util.decode(image.mask(one)).astype(bool) for one in image.objects])
    overlaps = [image.overlaps[one["id"]] for one in image.objects]
    labels = [names[one["category_id"]] for one in image.objects]
    high = sum(overlap >= threshold for overlap in overlaps)
    caption = f"{Path(image.file).name[-24:]}: {len(overlaps)}, {high} >= {threshold:g}"
    picture = draw_overlaps(pixels, corners, masks, overlaps, labels, threshold=threshold, side=_SIDE)
    return side_by_side([picture], [caption])


def draw_objects(truth: GroundTruth, count: int, threshold: float) -> list[np.ndarray]:
    """Sheets of images with two objects or more, chosen at random.

    Raises:
        DatasetError: there is none, or see `draw_image`.
    """
    names = {key: category["name"] for key, category in truth.coco.cats.items()}
    images = [truth.image(key) for key in sorted(truth.coco.imgs)]
    images = [image for image in images if len(image.objects) > 1]
    if not images:
        raise DatasetError(f"{truth.json_file} has no image with two objects: there is no overlap to draw")
    chosen = np.random.default_rng(0).permutation(len(images))[:count]
    return sheets([draw_image(images[index], names, threshold) for index in chosen])


def write_csv(path: Path, rows: list[Row]) -> None:
    """Write rows of equal keys."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, text.getvalue())


def run(args: argparse.Namespace) -> None:
    """Measure, print, draw and write."""
    truth = open_truth(args.dataset, args.image_root)
    measured = measure(args, truth) if args.predictions else None
    drawn = draw_objects(truth, args.draw, args.threshold) if args.draw else []
    args.output.mkdir(parents=True, exist_ok=True)
    if measured is not None:
        by_overlap, wrong = measured
        print(f"{tables(by_overlap, wrong)}\n")
        write_csv(args.output / "overlap.csv", by_overlap)
        write_csv(args.output / "false_positives.csv", wrong)
        title = f"{args.dataset}, {args.of} categories, seen: {' '.join(args.seen)}"
        write_whole(args.output / "overlap.png", picture(by_overlap, wrong, title))
    for number, sheet in enumerate(drawn):
        write_whole(args.output / f"objects_{number:02d}.png", cv2.imencode(".png", sheet)[1].tobytes())
    print(f"figures and tables: {args.output}")


def _named_file(text: str) -> tuple[str, Path]:
    """`name=file`, or a file, which is named after its folder."""
    name, found, path = text.partition("=")
    return (name, Path(path)) if found and not Path(text).exists() else (Path(text).resolve().parent.name, Path(text))


def parse() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Mask AP by overlap with other objects, what wrong pixels of masks lie on, and overlaps on images.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dataset", required=True, metavar="NAME|JSON", help="a registered data set, or a COCO file")
    parser.add_argument(
        "--predictions", nargs="+", type=_named_file, metavar="[NAME=]JSON", help="one file a model; needs --seen"
    )
    parser.add_argument(
        "--seen", nargs="+", metavar="SPLIT|NAME", help="categories with masks: a split, or their names"
    )
    parser.add_argument(
        "--of", choices=("unseen", "seen", "all"), default="unseen", help="categories to measure (default unseen)"
    )
    parser.add_argument(
        "--threshold", type=float, default=0.3, help="of the last row and the colours: O >= this (default 0.3)"
    )
    parser.add_argument("--draw", type=int, default=0, metavar="N", help="draw the overlap of objects on N images")
    parser.add_argument("--image-root", type=Path, metavar="DIR", help="images of a COCO file, for --draw")
    parser.add_argument("--output", required=True, type=Path, help="folder for tables and figure")
    return parser


def main() -> int:
    """Parse and run; a mistake of the user is one sentence."""
    parser = parse()
    args = parser.parse_args()
    if not 0 < args.threshold <= 1:
        parser.error(f"--threshold {args.threshold:g}: must be above 0 and at most 1")
    if bool(args.predictions) != bool(args.seen):
        parser.error("--predictions and --seen go together")
    if args.draw < 0 or not (args.predictions or args.draw):
        parser.error("give --predictions and --seen to measure, --draw N to draw N images, or all of them")
    names = [name for name, _ in args.predictions or ()]
    if len(set(names)) < len(names):
        parser.error(f"--predictions: several are named {max(names, key=names.count)}; write NAME=FILE")
    try:
        run(args)
    except USER_MISTAKES as error:
        parser.exit(2, f"{parser.prog}: error: {describe(error, args.output)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
