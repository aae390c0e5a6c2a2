#!/usr/bin/env python
"""Choose the images of a COCO file whose objects overlap, as COCO-OCC does; `--help` explains the command line."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from tabulate import tabulate

from instseg_d2.data import DatasetError, prepare_dataset, validate_coco
from instseg_d2.data.datasets import read_coco_json
from instseg_d2.data.datasets.coco_occ import (
    DEFAULT_RULE,
    OCCLUSION_RULES,
    PAPER_IMAGES,
    PAPER_SELECTED,
    THRESHOLD,
    keep_images,
    occluded_images,
)
from instseg_d2.files import write_whole

_EPILOG = """\
examples:
  python tools/select_occluded.py instances_val2017.json
  python tools/select_occluded.py occshapes_val                          # a registered name
  python tools/select_occluded.py instances_val2017.json --definition mean_iou --write ids.txt instances_occ.json

COCO-OCC of BCNet's authors are 1,005 of the 5,000 images of COCO 2017 val, whose boxes overlap by a ratio of 0.2 or
more. Which ratio is not known, so every reading is counted; for a file of 5,000 images also against 1,005. A .txt file
has one image id a line, a .json file the chosen images with their annotations as they are.
Exit code: 0 done, 2 wrong usage or input.
"""


def read(dataset: str) -> tuple[str, dict[str, Any]]:
    """Path and content of the file that the command line means.

    Raises:
        DatasetError: it is not there, or cannot be used.
    """
    if not os.path.isfile(dataset) and dataset in DatasetCatalog.list():
        prepare_dataset(dataset)
        dataset = MetadataCatalog.get(dataset).get("json_file") or dataset
    content = read_coco_json(dataset)
    fatal = [problem for problem in validate_coco(content) if problem.fatal]
    if fatal:
        listed = "\n".join(f"  {problem}" for problem in fatal)
        raise DatasetError(f"{dataset} cannot be used:\n{listed}")
    return dataset, content


def table(counts: dict[str, int], images: int) -> str:
    """The counts, nearest to the paper's first where the file has as many images as the paper's."""
    as_in_paper = images == PAPER_IMAGES
    names = sorted(counts, key=lambda name: abs(counts[name] - PAPER_SELECTED)) if as_in_paper else list(counts)
    rows = []
    for name in names:
        row = [name, counts[name], f"{counts[name] / max(images, 1):.1%}"]
        rows.append(
            [*row, *([f"{counts[name] - PAPER_SELECTED:+d}"] if as_in_paper else []), OCCLUSION_RULES[name].meaning]
        )
    header = ["definition", "images", "share", *([f"against {PAPER_SELECTED}"] if as_in_paper else []), "meaning"]
    return tabulate(rows, header, disable_numparse=True, colalign=["left", *["right"] * (len(header) - 2), "left"])


def run(args: argparse.Namespace) -> None:
    """Count, print and write."""
    path, content = read(args.dataset)
    names = [args.definition] if args.definition else list(OCCLUSION_RULES)
    chosen = {name: occluded_images(content, name, args.threshold) for name in names}
    images = len(content["images"])
    print(f"{path}: {images} images, {len(content.get('annotations', ()))} annotations; at least {args.threshold:g}\n")
    print(table({name: len(ids) for name, ids in chosen.items()}, images))
    name = args.definition or DEFAULT_RULE
    for target in map(Path, args.write):
        if target.suffix == ".json":
            write_whole(target, json.dumps(keep_images(content, chosen[name])))
        else:
            write_whole(target, "".join(f"{key}\n" for key in chosen[name]))
        print(f"wrote {target}: {len(chosen[name])} images by {name}")


def parse() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Count and choose the images of a COCO file whose objects overlap, by their boxes.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", metavar="JSON|NAME", help="a COCO file, or a registered data set")
    parser.add_argument(
        "--definition",
        choices=OCCLUSION_RULES,
        metavar="NAME",
        help=f"count by this one alone, and write its images (default: count by all, write those of {DEFAULT_RULE}); "
        f"one of {', '.join(OCCLUSION_RULES)}",
    )
    parser.add_argument("--threshold", type=float, default=THRESHOLD, help="least overlap (default %(default)s)")
    parser.add_argument("--write", nargs="+", default=[], metavar="FILE", help="write a .json, or ids into a .txt file")
    return parser


def main() -> int:
    """Parse and run; a mistake of the user is one sentence."""
    parser = parse()
    args = parser.parse_args()
    if not 0 < args.threshold <= 1:
        parser.error(f"--threshold {args.threshold:g}: must be above 0 and at most 1")
    if wrong := [target for target in args.write if Path(target).suffix not in (".json", ".txt")]:
        parser.error(f"--write {wrong[0]}: the name must end in .json (annotations) or .txt (ids)")
    try:
        run(args)
    except (DatasetError, OSError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
