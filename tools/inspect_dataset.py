#!/usr/bin/env python
"""See what the loss of a recipe sees: augmented images with their ground truth, and statistics; see `--help`."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from detectron2.config import instantiate
from detectron2.data import MetadataCatalog
from detectron2.utils.env import seed_all_rng
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from instseg_d2.checkpoint import load_weights
from instseg_d2.data import VideoClips
from instseg_d2.data.statistics import SampleStatistics
from instseg_d2.engine.mistakes import USER_MISTAKES, describe
from instseg_d2.engine.overrides import SettingError, apply_overrides
from instseg_d2.engine.pseudo_supervision import PseudoSupervisionProbe
from instseg_d2.engine.run import build_model
from instseg_d2.files import write_whole
from instseg_d2.model_zoo import get_config
from instseg_d2.visualization.samples import draw_sample, sheets
from instseg_d2.visualization.sheet import tile
from instseg_d2.visualization.sim import draw_pasting, draw_pseudo_supervision
from instseg_d2.visualization.strips import draw_strips

_EPILOG = """\
The recipe's data set goes through the recipe's mapper, so the pictures show resizing, crops and flips, and the ground
truth after them. A dashed white box marks an instance whose mask is hidden from the loss. Amodal masks, occluders and
identities are drawn when the mapper gives them (dataloader.train.mapper.extra_fields). Images are chosen at random.
Of a recipe for videos, a frame is followed by its references, with one color for an object in all of them; statistics
count the frame alone.

Of a model that makes its masks itself (SIM), --pseudo-masks with its --weights draws what they are learned from:
neighbors of one color, semantic and instance map, the pseudo mask with its ignored pixels, weights of the positives;
and samples of copy-paste.

examples:
  python tools/inspect_dataset.py --config-file Baselines/mask_rcnn_narrow_fpn_occshapes_quick --output output/inspect
  python tools/inspect_dataset.py --config-file CONFIG --split test --count 40 --seed 3
  python tools/inspect_dataset.py --config-file CONFIG '+dataloader.train.mapper.extra_fields=[gt_occluders]'
  python tools/inspect_dataset.py --config-file SIM/sim_narrow_fpn_occshapes_quick --weights model_final.pth \
      --pseudo-masks 8
"""


def build_mapper(cfg: DictConfig, split: str):
    """The mapper of a split; that of the test split gives ground truth too, which the model never gets.

    Raises:
        SettingError: the split has none.
    """
    node = OmegaConf.select(cfg, f"dataloader.{split}.mapper")
    if node is None:
        raise SettingError(f"dataloader.{split} has no mapper")
    if "is_train" in node:
        node.is_train = True
    return instantiate(node)


def class_names(cfg: DictConfig, split: str) -> list[str] | None:
    """Names of the classes of the (first) data set."""
    names = OmegaConf.select(cfg, f"dataloader.{split}.dataset.names")
    name = names if isinstance(names, str) or not names else names[0]
    return MetadataCatalog.get(name).get("thing_classes") if name else None


def samples(cfg: DictConfig, split: str, count: int, seed: int) -> Iterator[tuple[dict, list[dict]]]:
    """Map records that are chosen at random; a mapper of clips gives several frames for one record.

    Yields:
        the mapped frame with `image` and `instances`, and the annotations of its record (of a clip: none).
    """
    node = cfg.dataloader[split]
    records = instantiate(node.dataset)
    if "references" in node:
        records = VideoClips(records, instantiate(node.references))
    mapper = build_mapper(cfg, split)
    chosen = np.random.default_rng(seed).permutation(len(records))[:count]
    seed_all_rng(seed)  # of the augmentations
    for index in tqdm(chosen, desc="map", unit="image", disable=None):
        record = records[int(index)]
        mapped = mapper(record)
        if mapped is None:
            continue
        if isinstance(mapped, list):
            yield from ((frame, []) for frame in mapped)
        else:
            yield mapped, record.get("annotations", [])


def _image(sample: dict, is_rgb: bool) -> np.ndarray:
    """The mapped image, BGR."""
    image = sample["image"].numpy().transpose(1, 2, 0)
    return np.ascontiguousarray(image[:, :, ::-1] if is_rgb else image)


def _picture(sample: dict, image: np.ndarray, names: list[str] | None, side: int) -> np.ndarray:
    # Names may be long, and differ most at their end.
    name = Path(sample["file_name"]).name[-side // 16 :]
    caption = f"{name}: {len(sample['instances'])}, {image.shape[1]}x{image.shape[0]}"
    return draw_sample(image, sample["instances"], names, caption=caption, side=side)


def _with_references(sample: dict, is_rgb: bool, names: list[str] | None, side: int) -> np.ndarray:
    """A frame, and to its right those that it refers to."""
    frames = [sample, *sample.get("references", ())]
    pictures = [_picture(frame, _image(frame, is_rgb), names, side) for frame in frames]
    return tile(pictures, columns=len(pictures), gap=0)


def _write(path: Path, picture: np.ndarray) -> None:
    write_whole(path, cv2.imencode(".png", picture)[1].tobytes())


def draw_pseudo_masks(
    cfg: DictConfig, args: argparse.Namespace, kept: list[dict], is_rgb: bool, names: list[str] | None
) -> None:
    """Write what a model learns the masks of some mapped images from, and pastes of each into the next."""
    model = build_model(cfg)
    load_weights(model, args.weights)
    probe = PseudoSupervisionProbe(model)
    found = [probe(sample) for sample in tqdm(kept, desc="pseudo masks", unit="image", disable=None)]
    pictures = [_image(sample, is_rgb) for sample in kept]
    for number, (sample, maps, image) in enumerate(zip(kept, found, pictures, strict=True)):
        drawn = draw_pseudo_supervision(image, sample["instances"], names, **vars(maps), rows=args.pseudo_masks)
        _write(args.output / f"{args.split}_{number:02d}_pseudo_masks.png", drawn)
    pairs = []
    for sample, image, (pasted, truth) in zip(kept, pictures, probe.paste(kept, found), strict=False):
        after = _image({"image": pasted}, is_rgb)
        pairs.append(draw_pasting(image, sample["instances"], after, truth, names, side=args.side))
    for number, sheet in enumerate(sheets(pairs)):
        _write(args.output / f"{args.split}_pastes_{number:02d}.png", sheet)


def run(args: argparse.Namespace) -> None:
    """Write sheets and statistics."""
    cfg = apply_overrides(get_config(args.config_file), args.opts)
    is_rgb = OmegaConf.select(cfg, f"dataloader.{args.split}.mapper.image_format") == "RGB"
    names = class_names(cfg, args.split)
    statistics, pictures, strips, kept = SampleStatistics(names), [], [], []
    for sample, annotations in samples(cfg, args.split, max(args.count, args.statistics), args.seed):
        if "instances" not in sample:
            raise SettingError(f"dataloader.{args.split} gives no ground truth: its records have no annotations")
        statistics.add(sample["instances"], annotations)
        if len(pictures) < args.count:
            image = _image(sample, is_rgb)
            pictures.append(_with_references(sample, is_rgb, names, args.side))
            if args.pseudo_masks:
                kept.append(sample)
            if args.strips:
                strips.append(draw_strips(image, sample["instances"], names, rows=args.strips))
    args.output.mkdir(parents=True, exist_ok=True)
    for number, strip in enumerate(strips):
        _write(args.output / f"{args.split}_{number:02d}_strips.png", strip)
    for number, sheet in enumerate(sheets(pictures)):
        path = args.output / f"{args.split}_{number:02d}.png"
        _write(path, sheet)
        print(path)
    if args.pseudo_masks:
        draw_pseudo_masks(cfg, args, kept, is_rgb, names)
    text = "\n".join(statistics.lines())
    write_whole(args.output / f"{args.split}_statistics.txt", f"{text}\n")
    print(text)


def parse() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Draw what the loss of a recipe sees, and tell it in numbers.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config-file", required=True, metavar="FILE_OR_NAME", help="a recipe: a file or a name")
    parser.add_argument("--split", choices=["train", "test"], default="train", help="default train")
    parser.add_argument("--count", type=int, default=16, help="images to draw (default 16)")
    parser.add_argument("--statistics", type=int, default=200, help="images to count (default 200, at least --count)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice and of the augmentations (default 0)")
    parser.add_argument("--side", type=int, default=320, help="longer side of a picture, pixels (default 320)")
    parser.add_argument(
        "--strips",
        type=int,
        default=0,
        metavar="ROWS",
        help="also write, for each image, the targets of its ROWS largest instances at the size that a loss sees",
    )
    parser.add_argument(
        "--pseudo-masks",
        type=int,
        default=0,
        metavar="ROWS",
        help="also draw what SIM learns the masks of the ROWS largest objects of each image from; needs --weights",
    )
    parser.add_argument("--weights", metavar="FILE", help="checkpoint of the recipe, for --pseudo-masks")
    parser.add_argument("--output", type=Path, default=Path("output/inspect"), help="folder (default output/inspect)")
    parser.add_argument("opts", nargs="*", metavar="key=value", help="overrides of config keys, as of train_net.py")
    return parser


def main() -> int:
    """Parse and run; a mistake of the user is one sentence."""
    parser = parse()
    args = parser.parse_intermixed_args()
    if min(args.count, args.statistics) < 1 or args.side < 64:
        parser.error("--count and --statistics are at least 1, --side at least 64")
    if bool(args.pseudo_masks) != bool(args.weights):
        parser.error("--pseudo-masks and --weights go together: the model draws them")
    try:
        run(args)
    except USER_MISTAKES as error:
        parser.exit(2, f"{parser.prog}: error: {describe(error, args.output)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
