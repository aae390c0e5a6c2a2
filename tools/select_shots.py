#!/usr/bin/env python
"""Write down which instances a few-shot recipe draws, for others to train on the same; `--help` explains it."""

import argparse
import sys
from collections import Counter
from pathlib import Path

from detectron2.config import instantiate
from omegaconf import OmegaConf
from tabulate import tabulate

from instseg_d2.data import FewShot, ShotList, load_records
from instseg_d2.engine.mistakes import USER_MISTAKES, describe
from instseg_d2.engine.overrides import SettingError, apply_overrides
from instseg_d2.model_zoo import get_config

_EPILOG = """\
examples:
  python tools/select_shots.py --config-file CPMask/cpmask_fcos_r50_fpn_coco_10shot shots.json train.seed=3
  python tools/select_shots.py --config-file CPMask/cpmask_fcos_r50_fpn_coco_10shot shots.json \\
      dataloader.train.dataset.supervision.shots=20
  python tools/train_net.py --config-file CPMask/mask_rcnn_r50_fpn_coco_10shot \\
      dataloader.train.dataset.supervision.file=shots.json             # trains on what the list names
  python tools/select_shots.py --config-file CPMask/mask_rcnn_r50_fpn_coco_10shot copy.json \\
      dataloader.train.dataset.supervision.file=shots.json             # checks a list against the data set

The file has number, seed and categories of the draw, and per image the ids of the annotations with their categories.
Training refuses a list of another data set, or of other numbers or categories than its recipe asks for.
Exit code: 0 done, 2 wrong usage or input.
"""


def choose(config_file: str, overrides: list[str]) -> ShotList:
    """What the recipe trains on.

    Raises:
        SettingError: it has no few shots.
        DatasetError: its data set cannot be used, or has too few instances.
    """
    cfg = apply_overrides(get_config(config_file), overrides)
    dataset = OmegaConf.select(cfg, "dataloader.train.dataset")
    node = OmegaConf.select(cfg, "dataloader.train.dataset.supervision")
    supervision = instantiate(node) if node is not None else None
    if not isinstance(supervision, FewShot):
        raise SettingError(f"{config_file}: dataloader.train.dataset.supervision is no FewShot, so it draws no shots")
    options = {key: value for key, value in dataset.items() if key not in ("_target_", "supervision")}
    return supervision.choose(*load_records(**options))


def run(args: argparse.Namespace) -> None:
    """Draw, write, print."""
    chosen = choose(args.config_file, args.opts)
    chosen.write(args.output)
    counts = Counter(shot.category for shot in chosen.drawn)
    images = Counter(category for _, category in {(shot.image_id, shot.category) for shot in chosen.drawn})
    print(tabulate([[name, counts[name], images[name]] for name in counts], ["category", "shots", "images"]))
    together = len({shot.image_id for shot in chosen.drawn})
    print(f"wrote {args.output}: {len(chosen.drawn)} shots in {together} images, seed {chosen.seed}")


def parse() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Write the instances that a few-shot recipe trains on to a file, which training can read.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("output", type=Path, metavar="OUT", help="list to write, .json")
    parser.add_argument("--config-file", required=True, metavar="FILE_OR_NAME", help="the few-shot recipe")
    parser.add_argument("opts", nargs="*", metavar="key=value", help="overrides of the recipe, as of train_net.py")
    return parser


def main() -> int:
    """Parse and run; a mistake of the user is one message."""
    parser = parse()
    args = parser.parse_intermixed_args()
    if args.output.suffix != ".json":
        parser.error(f"OUT {args.output}: the name must end in .json")
    try:
        run(args)
    except USER_MISTAKES as error:
        parser.exit(2, f"{parser.prog}: error: {describe(error)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
