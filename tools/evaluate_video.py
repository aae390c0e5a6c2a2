#!/usr/bin/env python
"""Score files of tracks against the truth, without a model; see `--help`."""

import argparse
import json
import os
import sys
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from tabulate import tabulate

from instseg_d2.data import DatasetError, prepare_dataset
from instseg_d2.data.bdd100k_categories import BDD100K_CLASSES
from instseg_d2.engine.mistakes import USER_MISTAKES, describe
from instseg_d2.evaluation.mots import evaluate_mots, super_classes_of
from instseg_d2.evaluation.mots_files import RleFrames, open_frames
from instseg_d2.evaluation.track_ap import track_ap
from instseg_d2.evaluation.video_selection import VideoSelection
from instseg_d2.files import write_whole

_EPILOG = """\
examples:
  python tools/evaluate_video.py --ytvis results.json annotations.json
  python tools/evaluate_video.py --ytvis tracks.json occvideo_val            # a registered data set as the truth
  python tools/evaluate_video.py --ytvis tracks.json annotations.json --part 0.5 1 --videos schoolgirls
  python tools/evaluate_video.py --mots bitmasks/ truth_bitmasks/            # BDD100K's eight classes
  python tools/evaluate_video.py --mots rles.json truth_rles/ --classes person,dog --output figures.json

--ytvis prints AP and AR of tracks. --mots prints mMOTSA, mMOTSP, mIDF1 and what they are made of, and, where every
predicted label has a score, AP of the masks of single frames. All but counts are in percent; nan stands where there is
nothing to find. Exit code: 0, or 2 for wrong usage and files that cannot be used.
"""


def _truth(source: str) -> tuple[str, list[str] | None]:
    """The path of the truth, and the class names of a registered data set."""
    if os.path.exists(source) or source not in DatasetCatalog.list():
        return source, None
    prepare_dataset(source)
    metadata = MetadataCatalog.get(source)
    paths = [path for path in (metadata.get("json_file"), metadata.get("bitmask_root")) if path]
    there = next((path for path in paths if os.path.exists(path)), None)
    if there is None:
        raise DatasetError(f"data set '{source}' has no annotations at {' or '.join(paths) or 'all'}")
    return there, list(metadata.thing_classes)


def _score_mots(found: str, truth: str, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    truth, class_names = _truth(truth)
    if args.classes:
        class_names = [name.strip() for name in args.classes.split(",")]
    class_names = class_names or list(BDD100K_CLASSES)
    predicted, annotated = open_frames(found, class_names), open_frames(truth, class_names)
    instances = predicted if isinstance(predicted, RleFrames) and predicted.has_scores else None
    super_classes = super_classes_of(class_names)
    return evaluate_mots(predicted, annotated, class_names, super_classes, args.selection, instances=instances)


def _print(results: dict[str, dict[str, float]]) -> None:
    """One table of what spans all classes, and one with a line a class, for each task."""
    for task, figures in results.items():
        whole = {name: value for name, value in figures.items() if "-" not in name}
        by_class: dict[str, dict[str, float]] = {}
        for name, value in figures.items():
            metric, _, group = name.partition("-")
            if group:
                by_class.setdefault(group, {})[metric] = value
        print(f"{task}\n{tabulate([whole], 'keys', 'simple', floatfmt='.2f')}\n")
        rows = [{"class": group, **values} for group, values in by_class.items()]
        print(f"{tabulate(rows, 'keys', 'simple', floatfmt='.2f')}\n")


def parse() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Score tracks that were written before: AP as YouTube-VIS defines it, or MOTS as BDD100K does.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--ytvis",
        nargs=2,
        metavar=("RESULTS", "TRUTH"),
        help="json files of YouTube-VIS; RESULTS may also be what predict.py writes, TRUTH a registered data set",
    )
    what.add_argument(
        "--mots",
        nargs=2,
        metavar=("FOUND", "TRUTH"),
        help="each a folder with a folder of bitmasks for each video, or Scalabel's json with run lengths, or a folder "
        "of such files; TRUTH may be a registered data set",
    )
    parser.add_argument(
        "--part",
        nargs=2,
        type=float,
        default=(0.0, 1.0),
        metavar=("FROM", "TO"),
        help="share of the frames of each video that counts: 0.5 1 is the second half",
    )
    parser.add_argument("--videos", help="names of the videos that count, with commas between (default: all)")
    parser.add_argument("--classes", help="--mots: class names in the order of their numbers (default: BDD100K's)")
    parser.add_argument("--output", type=Path, help="also write the figures to this json file")
    return parser


def main() -> int:
    """Parse and run; a mistake of the user is one sentence."""
    parser = parse()
    args = parser.parse_args()
    if args.ytvis and args.classes:
        parser.error("--classes goes with --mots; the truth of --ytvis has categories of its own")
    videos = [name.strip() for name in args.videos.split(",")] if args.videos else None
    try:
        args.selection = VideoSelection(part=tuple(args.part), videos=videos)
    except ValueError as error:
        parser.error(f"--part: {error}")
    try:
        if args.ytvis:
            results = {"segm": track_ap(args.ytvis[0], _truth(args.ytvis[1])[0], args.selection)}
        else:
            results = _score_mots(*args.mots, args)
        _print(results)
        if args.output:
            write_whole(args.output, json.dumps(results, indent=1))
    except USER_MISTAKES as error:
        parser.exit(2, f"{parser.prog}: error: {describe(error)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
