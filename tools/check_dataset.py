#!/usr/bin/env python
"""Check a data set before it is trained on; `--help` explains the command line."""

import argparse
import difflib
import os
import sys
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog

from instseg_d2.data import DatasetError, prepare_dataset
from instseg_d2.data.checks import check_dataset
from instseg_d2.data.datasets import read_coco_json

_EPILOG = """\
examples:
  python tools/check_dataset.py instances_train.json images/
  python tools/check_dataset.py labels.json                 # the json alone
  python tools/check_dataset.py occshapes_val               # a registered name
  python tools/check_dataset.py huge.json images/ --limit 500

COCO files, and YouTube-VIS files with their frames. Each kind of problem is one line: how often, the first
occurrence, what to do. Exit code: 0 fine (remarks are), 1 problems, 2 wrong usage.
"""


class UsageError(Exception):
    """What the command line names is not there."""


def locate(dataset: str, images: str | None) -> tuple[str, str | None]:
    """The json and the image folder that the command line means; checks that they are there.

    Raises:
        UsageError: they are not.
    """
    if not os.path.isfile(dataset) and dataset in DatasetCatalog.list():
        try:
            prepare_dataset(dataset)
        except DatasetError as error:
            raise UsageError(str(error)) from None
        metadata = MetadataCatalog.get(dataset)
        if not metadata.get("json_file"):
            raise UsageError(f"the registered data set '{dataset}' does not come from a json file")
        dataset, images = metadata.json_file, images or metadata.image_root
    if not os.path.isfile(dataset):
        near = difflib.get_close_matches(dataset, DatasetCatalog.list(), n=3)
        registered = f"; registered names like it: {', '.join(near)}" if near else ""
        raise UsageError(f"'{dataset}' is neither a file nor a registered data set{registered}")
    if images is not None and not os.path.isdir(images):
        raise UsageError(f"no image folder '{images}'")
    return dataset, images


def run(args: argparse.Namespace) -> int:
    """Check, print, and return the exit code."""
    json_file, images = locate(args.dataset, args.images)
    try:
        content = read_coco_json(json_file)
    except DatasetError as error:
        print(f"problem  {error}")
        return 1
    report = check_dataset(
        content,
        Path(images) if images is not None else None,
        num_workers=args.num_workers,
        limit=args.limit,
        progress=True,
    )
    for problem in report.problems:
        print(f"{'problem' if problem.fatal else 'remark '}  {problem}")
    fatal = sum(problem.fatal for problem in report.problems)
    looked = "image files were not looked at" if images is None else f"images: {images}"
    print(f"\n{json_file}; {looked}")
    for line in report.summary:
        print(f"  {line}")
    print(f"{fatal} kinds of problems, {len(report.problems) - fatal} kinds of remarks")
    return 0 if report.is_usable else 1


def parse() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Check ids, categories, boxes, masks and image files of a data set.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", metavar="JSON|NAME", help="a COCO or YouTube-VIS file, or a registered data set")
    parser.add_argument("images", nargs="?", metavar="IMAGES", help="folder that 'file_name' entries are relative to")
    parser.add_argument(
        "--num-workers",
        type=int,
        default=min(8, os.cpu_count() or 1),
        help="threads that read images (default %(default)s)",
    )
    parser.add_argument("--limit", type=int, help="look at masks and files of this many first images or videos only")
    return parser


def main() -> int:
    """Parse and run; a mistake of the user is one sentence."""
    parser = parse()
    args = parser.parse_args()
    if args.num_workers < 0 or (args.limit is not None and args.limit < 1):
        parser.error("--num-workers is at least 0, --limit at least 1")
    try:
        return run(args)
    except UsageError as error:
        parser.error(str(error))


if __name__ == "__main__":
    sys.exit(main())
