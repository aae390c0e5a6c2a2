#!/usr/bin/env python
"""Write a COCO set anew with objects pasted over its instances; `--help` explains the command line."""

import argparse
import difflib
import json
import os
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BitMasks, Boxes, Instances

from instseg_d2.data import DatasetError, SampleError, prepare_dataset
from instseg_d2.data.datasets.amodal import MaskKind
from instseg_d2.data.datasets.coco_occ import annotations_by_image
from instseg_d2.data.media import MediaError, load_image
from instseg_d2.data.occlusion_paste import PasteOcclusion
from instseg_d2.data.occlusion_set import ANNOTATION_FILE, IMAGE_FOLDER, write_pasted_set
from instseg_d2.data.occlusion_truth import visible_mask
from instseg_d2.data.run_lengths import decode_mask
from instseg_d2.files import write_whole
from instseg_d2.visualization.overlay import draw_instances
from instseg_d2.visualization.sheet import side_by_side, tile

CONTACT_SHEET_FILE = "contact_sheet.png"

# Longest side of a picture on the contact sheet, pixels.
_SIDE = 384

_EPILOG = f"""\
examples:
  python tools/paste_occlusion.py instances_train.json images/ --out occluded/ --contact-sheet 12
  python tools/paste_occlusion.py occshapes_train --out occluded/ --number 1 3 --coverage 0.2 0.7

Writes DIR/{ANNOTATION_FILE} and DIR/{IMAGE_FOLDER}/. Each object is an instance of the same set, cut out by its visible
mask. What it covers leaves the visible masks and their boxes; amodal masks, 'covered', 'depth' and 'occluders' follow
where the set has them. A set whose 'segmentation' masks are amodal needs --masks amodal, unless its registration says
so. For training without writing images see instseg_d2/data/occlusion_paste.py.
"""


def locate(args: argparse.Namespace) -> tuple[str, str, MaskKind]:
    """The json, the image folder, and which masks `segmentation` entries are.

    Raises:
        DatasetError: they are not there.
    """
    dataset, images, masks = args.dataset, args.images, args.masks
    known = DatasetCatalog.list()
    if not os.path.isfile(dataset) and images is None and dataset not in known:
        near = difflib.get_close_matches(dataset, known, n=3, cutoff=0)
        raise DatasetError(f"'{dataset}' is neither a file nor a registered data set; nearest: {', '.join(near)}")
    if not os.path.isfile(dataset) and dataset in known:
        prepare_dataset(dataset)
        metadata = MetadataCatalog.get(dataset)
        if not metadata.get("json_file"):
            raise DatasetError(f"the registered data set '{dataset}' does not come from a json file")
        dataset, images = metadata.json_file, images or metadata.image_root
        masks = masks or metadata.get("masks")
    if images is None or not os.path.isdir(images):
        raise DatasetError(f"no image folder '{images}'" if images else "give the image folder after the json")
    return dataset, images, masks or "visible"


def _drawn(image: np.ndarray, annotations: list[dict[str, Any]], masks: MaskKind) -> np.ndarray:
    """The visible masks over an image, each instance in a colour of its own."""
    height, width = image.shape[:2]
    shown = [one for one in annotations if not one.get("iscrowd", 0) and visible_mask(one, masks)]
    instances = Instances((height, width))
    planes = [decode_mask(visible_mask(one, masks), height, width) for one in shown]
    instances.gt_masks = BitMasks(torch.from_numpy(np.array(planes, dtype=bool).reshape(-1, height, width)))
    instances.gt_boxes = instances.gt_masks.get_bounding_boxes() if shown else Boxes(torch.zeros(0, 4))
    instances.gt_classes = torch.tensor([one["category_id"] for one in shown], dtype=torch.int64)
    return draw_instances(image, instances, labels=False, enlarge=max(1, round(_SIDE / max(height, width))))


def _fitted(pictures: list[np.ndarray]) -> list[np.ndarray]:
    """The pictures with a longest side of `_SIDE`."""
    height, width = pictures[0].shape[:2]
    size = tuple(round(side * _SIDE / max(height, width)) for side in (width, height))
    return [cv2.resize(picture, size, interpolation=cv2.INTER_AREA) for picture in pictures]


def contact_sheet(out: Path, json_file: str, images: str, masks: MaskKind, count: int) -> Path | None:
    """Draw the first images with a paste, before and after; None when there are none.

    Args:
        out: the written set.
        json_file: what it was made from.
        images: the folder of its images.
        masks: which masks `segmentation` entries are.
        count: how many to draw.
    """
    before, after = (json.loads(Path(path).read_text()) for path in (json_file, out / ANNOTATION_FILE))
    listed, pasted = annotations_by_image(before), annotations_by_image(after)
    changed = [image for image in after["images"] if pasted[image["id"]] != listed[image["id"]]][:count]
    cells = []
    for image in changed:
        old, new = (load_image(Path(folder) / image["file_name"]) for folder in (images, out / IMAGE_FOLDER))
        key = image["id"]
        pictures = [old, _drawn(old, listed[key], masks), new, _drawn(new, pasted[key], masks)]
        captions = [f"image {key}", "its visible masks", "with pastes", "visible masks now"]
        cells.append(side_by_side(_fitted(pictures), captions))
    if not cells:
        return None
    path = out / CONTACT_SHEET_FILE
    write_whole(path, cv2.imencode(".png", tile(cells, columns=1))[1].tobytes())
    return path


def settings(args: argparse.Namespace, masks: MaskKind) -> PasteOcclusion:
    """What is pasted, and where.

    Raises:
        DatasetError: a limit is out of bounds.
    """
    keys = ("probability", "number", "scale", "coverage", "most_covered", "at_border", "least_pixels")
    try:
        return PasteOcclusion(masks=masks, **{key: getattr(args, key) for key in keys})
    except ValueError as error:
        raise DatasetError(f"--{str(error).replace('_', '-', 1)}") from error


def run(args: argparse.Namespace) -> None:
    """Write, print and draw."""
    json_file, images, masks = locate(args)
    paste = settings(args, masks)
    out = Path(args.out)
    statistics = write_pasted_set(
        json_file, images, out, paste=paste, seed=args.seed, workers=args.workers, overwrite=args.overwrite
    )
    print(f"wrote {out}\n{statistics}")
    if args.contact_sheet:
        path = contact_sheet(out, json_file, images, masks, args.contact_sheet)
        print(f"before and after: {path}" if path else "nothing was pasted, so there is nothing to draw")


def parse() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Paste instances of a COCO set over instances of its images, with exact visible masks.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", metavar="JSON|NAME", help="a COCO file, or a registered data set")
    parser.add_argument("images", nargs="?", metavar="IMAGES", help="folder that 'file_name' entries are relative to")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write; absent or empty")
    parser.add_argument("--probability", type=float, default=1.0, help="of pasting into an image (default %(default)s)")
    for name, kind, default, meaning in (
        ("number", int, (1, 2), "least and most objects an image"),
        ("scale", float, (0.5, 1.5), "size of an object relative to the instance that it covers"),
        ("coverage", float, (0.1, 0.6), "share of that instance's visible area that it covers"),
    ):
        text = f"{meaning} (default {default[0]} {default[1]})"
        parser.add_argument(f"--{name}", type=kind, nargs=2, default=default, metavar=("LOW", "HIGH"), help=text)
    parser.add_argument(
        "--most-covered", type=float, default=0.1, help="hidden share of what is pasted, if known (default %(default)s)"
    )
    parser.add_argument("--at-border", action="store_true", help="paste objects that their own image cuts off, too")
    parser.add_argument(
        "--least-pixels", type=int, default=16, help="visible pixels that an instance needs (default %(default)s)"
    )
    parser.add_argument(
        "--masks", choices=("visible", "amodal"), help="what 'segmentation' masks are (default visible)"
    )
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same set (default %(default)s)")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes; 0 works in this one")
    parser.add_argument("--overwrite", action="store_true", help="replace a folder that this tool wrote")
    parser.add_argument(
        "--contact-sheet", type=int, default=0, metavar="N", help=f"also draw N images into DIR/{CONTACT_SHEET_FILE}"
    )
    return parser


def main() -> int:
    """Parse and run; a mistake of the user is one sentence."""
    parser = parse()
    args = parser.parse_args()
    try:
        run(args)
    except (DatasetError, MediaError, OSError, SampleError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, f"{parser.prog}: interrupted\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
