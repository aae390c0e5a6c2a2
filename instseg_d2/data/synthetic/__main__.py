"""Command line of the generators: `python -m instseg_d2.data.synthetic [images|video] --out DIR`."""

import argparse
import sys

from ..errors import DatasetError
from .occshapes import CONTACT_SHEET_FILE, IMAGE_FOLDER, write_occshapes
from .video_set import FILM_STRIP_FILE, VIDEO_LAYOUTS, write_occvideo

_PROGRAM = "python -m instseg_d2.data.synthetic"


def _add_common(parser: argparse.ArgumentParser, thing: str) -> None:
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write; absent or empty")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same set")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes; 0 works in this one")
    parser.add_argument("--overwrite", action="store_true", help=f"replace a folder of {thing} that was generated")


def build_parser() -> argparse.ArgumentParser:
    """The arguments of `images`, which is also what runs when no command is named."""
    parser = argparse.ArgumentParser(
        prog=f"{_PROGRAM} [images]",
        description="Generate OccShapes: images of overlapping objects of ten categories, with exact visible and "
        f"amodal masks. Writes DIR/annotations*.json (COCO, KINS and COCOA layouts) and DIR/{IMAGE_FOLDER}/*.png.",
        epilog=f"Videos: {_PROGRAM} video --help",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    _add_common(parser, "images")
    parser.add_argument("--images", type=int, default=500, metavar="N", help="number of images")
    parser.add_argument("--size", type=int, default=128, metavar="PIXELS", help="height and width of the images")
    parser.add_argument("--contact-sheet", action="store_true", help=f"also write DIR/{CONTACT_SHEET_FILE}")
    return parser


def _size(text: str) -> int | tuple[int, int]:
    if "x" not in text:
        return int(text)
    height, width = text.split("x")
    return int(height), int(width)


def build_video_parser() -> argparse.ArgumentParser:
    """The arguments of `video`."""
    parser = argparse.ArgumentParser(
        prog=f"{_PROGRAM} video",
        description="Generate OccVideo: videos of objects that pass behind one another, leave the frame and return, "
        "with exact masks, identities, optical flow and complete layers.",
        epilog=f"Images: {_PROGRAM} images --help",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    _add_common(parser, "videos")
    parser.add_argument("--videos", type=int, default=20, metavar="N", help="number of videos")
    parser.add_argument("--frames", type=int, default=24, metavar="N", help="frames of each video")
    parser.add_argument("--size", type=_size, default=128, metavar="PIXELS", help="side, or HEIGHTxWIDTH")
    parser.add_argument(
        "--layouts",
        nargs="+",
        choices=VIDEO_LAYOUTS,
        default=["ytvis"],
        help="YouTube-VIS, BDD100K MOTS, YouTube-VOI (inpainting)",
    )
    parser.add_argument("--flow", action="store_true", help="also write exact optical flow (.flo)")
    parser.add_argument("--layers", action="store_true", help="also write background and complete objects (PNG)")
    parser.add_argument("--film-strip", action="store_true", help=f"also write DIR/{FILM_STRIP_FILE}")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line; 0 when the set is written, 2 when the arguments do not allow it."""
    words = list(sys.argv[1:] if argv is None else argv)
    command = words.pop(0) if words[:1] in (["images"], ["video"]) else "images"
    parser, write = (build_video_parser(), write_occvideo) if command == "video" else (build_parser(), write_occshapes)
    args = parser.parse_args(words)
    try:
        statistics = write(**vars(args))
    except (DatasetError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    print(f"wrote {args.out}\n{statistics}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
