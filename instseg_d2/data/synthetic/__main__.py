"""Command line of the generator: `python -m instseg_d2.data.synthetic --out DIR`."""

import argparse
import sys

from ..errors import DatasetError
from .occshapes import ANNOTATION_FILE, CONTACT_SHEET_FILE, IMAGE_FOLDER, write_occshapes


def build_parser() -> argparse.ArgumentParser:
    """The arguments of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m instseg_d2.data.synthetic",
        description="Generate OccShapes: images of overlapping objects of ten categories, with exact visible masks. "
        f"Writes DIR/{ANNOTATION_FILE} (COCO) and DIR/{IMAGE_FOLDER}/*.png.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write; absent or empty")
    parser.add_argument("--images", type=int, default=500, metavar="N", help="number of images")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same set")
    parser.add_argument("--size", type=int, default=128, metavar="PIXELS", help="height and width of the images")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes; 0 works in this one")
    parser.add_argument("--contact-sheet", action="store_true", help=f"also write DIR/{CONTACT_SHEET_FILE}")
    parser.add_argument("--overwrite", action="store_true", help="replace a folder that this generator wrote")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line; 0 when the set is written, 2 when the arguments do not allow it."""
    args = build_parser().parse_args(argv)
    try:
        statistics = write_occshapes(**vars(args))
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
