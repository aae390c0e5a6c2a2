#!/usr/bin/env python
"""Hide objects of any video data set behind moving shapes, in YouTube-VOI's layout; `--help` explains."""

import argparse
import os
import sys
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from tqdm import tqdm

from instseg_d2.data import DatasetError, prepare_dataset
from instseg_d2.data.video_inpainting.appearance import RENDERINGS
from instseg_d2.data.video_inpainting.builder import VOIBuild, plan_voi, write_voi_set
from instseg_d2.data.video_inpainting.occlusion import OcclusionRules
from instseg_d2.data.video_inpainting.sources import Source, source_of
from instseg_d2.data.video_inpainting.tracks import TrackRules
from instseg_d2.data.video_inpainting.voi import check_track, read_voi
from instseg_d2.engine.mistakes import USER_MISTAKES, describe

_EPILOG = """\
examples:
  python tools/build_voi.py ytvis_2021/train.json ytvis_2021/train/JPEGImages --out voi --workers 8
  python tools/build_voi.py DAVIS --out voi_davis                  # Annotations/ and JPEGImages/, palette PNGs
  python tools/build_voi.py occvideo_train --out voi_small --min-frames 8
  python tools/build_voi.py DAVIS --dry-run                        # which objects would be hidden, and nothing else
  python tools/build_voi.py voi --check                            # masks, sizes and hashes of a set
  python tools/build_voi.py YouTube-VOI --images train/JPEGImages --check     # the published masks

Of each object that keeps the rules of targets, DIR/tracks/<video>/<object>/ gets full_mask, occ_mask, occ_mask_full,
remain_mask and occluder, DIR/tracks.json the rest. Frames are not copied. Masks depend on --seed and the names of data
set, video and object alone. One video in ten is for evaluation. The occlusions are our own: figures on such a set
compare with each other, not with those on the published YouTube-VOI. Exit code: 0 fine, 1 problems found by --check,
2 wrong usage and files that cannot be used.
"""


def _source(args: argparse.Namespace) -> Source:
    """What SOURCE means: a registered data set, a json, or a folder."""
    source, images, name = args.source, args.images, args.name
    if not os.path.exists(source) and source in DatasetCatalog.list():
        prepare_dataset(source)
        metadata = MetadataCatalog.get(source)
        if not metadata.get("json_file"):
            raise DatasetError(f"the registered data set '{source}' does not come from a json file")
        source, images, name = metadata.json_file, images or metadata.image_root, name or source
    return source_of(source, images, name)


def _build(args: argparse.Namespace) -> VOIBuild:
    try:
        targets = TrackRules(
            frames=args.min_frames,
            area=tuple(args.area),
            area_ratio=args.max_area_ratio,
            at_border=args.max_at_border,
            size=tuple(args.min_size[::-1]),
        )
        rules = OcclusionRules(families=tuple(args.families), motions=tuple(args.motions), degrees=tuple(args.degrees))
    except ValueError as error:
        raise DatasetError(str(error)) from error
    return VOIBuild(
        source=_source(args),
        seed=args.seed,
        variants=args.variants,
        targets=targets,
        occlusions=rules,
        appearance=not args.masks_only,
        renderings=tuple(args.render),
    )


def _check(args: argparse.Namespace) -> int:
    tracks = read_voi(args.source, images=args.images)
    problems = [problem for track in tqdm(tracks, desc="checking", unit="track") for problem in check_track(track)]
    for problem in problems:
        print(problem)
    frames = sum(map(len, tracks))
    print(f"{len(tracks)} tracks, {frames} frames, {4 * frames} masks: {len(problems) or 'no'} problems")
    return 1 if problems else 0


def run(args: argparse.Namespace) -> int:
    """Do what the command line says; the exit code."""
    if args.check:
        return _check(args)
    build = _build(args)
    if args.dry_run:
        print(f"would hide, in {args.variants} variants each:\n\n{plan_voi(build)}")
        return 0
    if args.out is None:
        raise DatasetError("give the folder to write: --out DIR (or --dry-run, --check)")
    report = write_voi_set(args.out, build, workers=args.workers, overwrite=args.overwrite)
    print(f"wrote {args.out}\n\n{report}")
    return 0


def parse() -> argparse.ArgumentParser:
    """The command line."""
    targets, rules = TrackRules(), OcclusionRules()
    parser = argparse.ArgumentParser(
        description="Hide objects of videos behind moving strokes, blobs and other objects, with all masks.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="SOURCE", help="YouTube-VIS json, folder with Annotations/, registered name")
    parser.add_argument("images", nargs="?", metavar="IMAGES", help="folder that a json's 'file_names' are relative to")
    parser.add_argument("--images", dest="images", default=argparse.SUPPRESS, help="the same; the frames of --check")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder to write; absent or empty")
    parser.add_argument("--name", help="of the data set, part of what chance depends on (default: of the file)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same masks (default %(default)s)")
    parser.add_argument("--variants", type=int, default=1, help="occlusions of each object (default %(default)s)")
    what = parser.add_argument_group("objects to hide")
    what.add_argument(
        "--min-frames", type=int, default=targets.frames, help="masks in a row that it has (default %(default)s)"
    )
    what.add_argument("--area", type=float, nargs=2, default=targets.area, metavar=("LOW", "HIGH"),
                      help="median area as a share of the frame (default 0.01 0.5)")  # fmt: skip
    what.add_argument("--max-area-ratio", type=float, default=targets.area_ratio, metavar="RATIO",
                      help="of its areas in two frames (default %(default)s)")  # fmt: skip
    what.add_argument("--max-at-border", type=float, default=targets.at_border, metavar="SHARE",
                      help="of frames whose border it touches (default %(default)s)")  # fmt: skip
    what.add_argument("--min-size", type=int, nargs=2, default=targets.size, metavar=("WIDTH", "HEIGHT"),
                      help="of frames (default: any)")  # fmt: skip
    how = parser.add_argument_group("occluders")
    how.add_argument("--families", type=float, nargs=3, default=rules.families, metavar=("TRACK", "STROKE", "BLOB"),
                     help="chances: another object, a stroke, a blob (default 0.5 0.3 0.2)")  # fmt: skip
    how.add_argument("--motions", type=float, nargs=3, default=rules.motions, metavar=("LOCKED", "DRIFTING", "PASSING"),
                     help="chances of how it moves (default 0.2 0.4 0.4)")  # fmt: skip
    how.add_argument("--degrees", type=float, nargs="+", default=rules.degrees, metavar="SHARE",
                     help="bounds of the bins of the mean hidden share (default 0.1 0.3 0.5 0.7)")  # fmt: skip
    how.add_argument("--masks-only", action="store_true", help="without the colours of occluders")
    how.add_argument("--render", nargs="+", choices=RENDERINGS, default=(), help="also write frames for other programs")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes; 0 works in this one")
    parser.add_argument("--overwrite", action="store_true", help="replace a folder that this tool wrote")
    parser.add_argument("--dry-run", action="store_true", help="read and count, and write nothing")
    parser.add_argument("--check", action="store_true", help="SOURCE is a set: check it, and write nothing")
    return parser


def main() -> int:
    """Parse and run; a mistake of the user is one sentence."""
    parser = parse()
    args = parser.parse_args()
    try:
        return run(args)
    except USER_MISTAKES as error:
        parser.exit(2, f"{parser.prog}: error: {describe(error, args.out)}\n")
    except KeyboardInterrupt:
        parser.exit(130, f"{parser.prog}: interrupted; nothing was written\n")


if __name__ == "__main__":
    sys.exit(main())
