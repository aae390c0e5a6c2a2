#!/usr/bin/env python
"""Weights that a paper's authors published, as a checkpoint of this package; `--help` explains the command line."""

import argparse
import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from detectron2.config import instantiate
from torch import Tensor

from instseg_d2.checkpoint import CheckpointMismatchError
from instseg_d2.checkpoint.adelaidet_condinst import convert_condinst
from instseg_d2.checkpoint.adelaidet_solov2 import convert_adelaidet_solov2
from instseg_d2.checkpoint.base_stage import drop_class_layers
from instseg_d2.checkpoint.bcnet import convert_bcnet
from instseg_d2.checkpoint.conversion import Differences, compare, group_names, write_weights
from instseg_d2.checkpoint.foreign import read_tensors
from instseg_d2.checkpoint.mask2former import convert_mask2former
from instseg_d2.checkpoint.opmask import convert_opmask
from instseg_d2.checkpoint.pcan import convert_pcan
from instseg_d2.checkpoint.sim import convert_sim
from instseg_d2.checkpoint.teacher_student import drop_teacher
from instseg_d2.engine.mistakes import USER_MISTAKES, describe
from instseg_d2.engine.overrides import apply_overrides
from instseg_d2.model_zoo import get_config


@dataclass(frozen=True)
class Format:
    """A code base whose weights can be converted.

    Attributes:
        summary: one line of `--help`.
        convert: tensors by that code base's names -> by this package's. Raises `CheckpointMismatchError` for names
            that it does not know; leaves out what has no use here.
        recipes: whose models the weights may be of, the likeliest first; tried in turn without `--config-file`.
        counters: see `instseg_d2.checkpoint.conversion.compare`, by this package's names.
        teacher: the weights are with those of a momentum teacher, which models have from their first training step on.
        anew: what `convert` leaves out lacks in the new file, and starts from random weights in a training.
    """

    summary: str
    convert: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
    recipes: tuple[str, ...]
    counters: tuple[str, ...] = ()
    teacher: bool = False
    anew: bool = False


FORMATS = {
    "bcnet": Format(
        "BCNet, code of its authors (lkeab/BCNet): FCOS with ResNet-50, ResNet-101 or ResNeXt-101",
        convert_bcnet,
        (
            "BCNet/bcnet_released_fcos_r101_fpn_coco_2x",
            "BCNet/bcnet_released_fcos_r50_fpn_coco_1x",
            "BCNet/bcnet_released_fcos_x101_fpn_coco_2x",
        ),
    ),
    "condinst": Format(
        "CondInst and BoxInst, AdelaiDet: ResNet-50 or ResNet-101 with FPN or BiFPN",
        convert_condinst,
        (
            "SIM/condinst_r50_fpn_coco_3x",
            "SIM/condinst_r101_fpn_coco_3x",
            "SIM/boxinst_r50_fpn_coco_3x",
            "SIM/boxinst_r101_fpn_coco_3x",
            "SIM/condinst_r50_fpn_coco_3x_sem",
            "SIM/condinst_r101_fpn_coco_3x_sem",
            "SIM/condinst_r50_bifpn_coco_3x",
            "SIM/condinst_r101_bifpn_coco_3x",
            "SIM/boxinst_r50_bifpn_coco_3x",
            "SIM/boxinst_r101_bifpn_coco_3x",
            "SIM/boxinst_released_r101_dcn_bifpn_coco_3x",
        ),
        counters=("detector.positives_average", "supervision.iterations"),
    ),
    "sim": Format(
        "SIM, code of its authors (lslrh/SIM), student and teacher: ResNet-50 or ResNet-101",
        convert_sim,
        (
            "SIM/sim_released_r50_fpn_coco_3x",
            "SIM/sim_r101_fpn_coco_3x",
            "SIM/sim_r50_bifpn_coco_3x",
            "SIM/sim_r101_bifpn_coco_3x",
        ),
        counters=("detector.positives_average", "iterations", "supervision.iterations"),
        teacher=True,
    ),
    "opmask": Format(
        "OPMask, code of its authors (dbtmpl/OPMask): ResNet-50 or ResNet-101",
        convert_opmask,
        ("TeacherStudent/opmask_r50_fpn_coco_voc_1x", "TeacherStudent/opmask_r101_fpn_coco_voc_130k"),
    ),
    "student": Format(
        "the student of an own Teacher-Student training, without its teacher",
        drop_teacher,
        (
            "Baselines/mask_rcnn_r50_fpn_coco_1x",
            "TeacherStudent/student_opmask_r50_fpn_coco_voc_1x",
            "TeacherStudent/student_boxinst_r50_fpn_coco_voc_1x",
            "Baselines/mask_rcnn_narrow_fpn_occshapes_quick",
        ),
        counters=("detector.positives_average",),
    ),
    "base_stage": Format(
        "the base stage of an own few-shot training, without what scores its categories",
        drop_class_layers,
        (
            "CPMask/cpmask_fcos_r50_fpn_coco_10shot",
            "CPMask/mask_rcnn_r50_fpn_coco_10shot",
            "CPMask/cpmask_fcos_narrow_fpn_occshapes_10shot_quick",
        ),
        anew=True,
    ),
    "mask2former": Format(
        "Mask2Former, code of its authors (facebookresearch/Mask2Former): ResNet-50 or ResNet-101",
        convert_mask2former,
        ("SIM/mask2former_r50_coco_50e", "SIM/mask2former_r101_coco_50e"),
    ),
    "pcan": Format(
        "PCAN, code of its authors (SysCV/pcan): ResNet-50 on BDD100K, and the trackers it starts from",
        convert_pcan,
        (
            "PCAN/pcan_released_r50_fpn_bdd100k",
            "PCAN/tracking_rcnn_r50_fpn_bdd100k_masks",
            "PCAN/tracking_rcnn_r50_fpn_bdd100k_boxes",
        ),
        # Prototypes that trackers have there as well, without a use.
        counters=tuple(f"frame_attention.attentions.{level}.means" for level in ("p2", "p3")),
    ),
    "solov2": Format(
        "SOLOv2, AdelaiDet: ResNet-50 or ResNet-101",
        convert_adelaidet_solov2,
        ("PEP/solov2_r50_fpn_coco_3x", "PEP/solov2_r101_fpn_coco_3x"),
    ),
}

_FORMATS_HELP = "\n".join(
    "\n".join([f"  {name:<12}{form.summary}", *(f"{'':<14}{recipe}" for recipe in form.recipes)])
    for name, form in FORMATS.items()
)
_EPILOG = f"""\
formats, and the recipes that their weights are for:
{_FORMATS_HELP}

examples:
  python tools/convert_weights.py --from bcnet released.pth bcnet_r101.pth
  python tools/convert_weights.py --from bcnet released.pth bcnet_r50.pth \\
      --config-file BCNet/bcnet_released_fcos_r50_fpn_coco_1x
  python tools/convert_weights.py --from bcnet own_training.pth bcnet_7.pth \\
      --config-file BCNet/bcnet_released_fcos_r50_fpn_coco_1x model.detector.num_classes=7
  python tools/convert_weights.py --from base_stage output/base/model_final.pth novel.pth
  python tools/train_net.py --config-file BCNet/bcnet_released_fcos_r101_fpn_coco_2x \\
      --eval-only train.init_checkpoint=bcnet_r101.pth

Files are read without running code that they may carry. Nothing is written unless every tensor of the model gets a
value of its shape, and every tensor of the file a place; counters of a training may lack, and the layers for classes
that --from base_stage leaves out on purpose: it prints them, and training starts them anew. Optimizer and iteration are
not taken over. The new file says in its entry `converted_from` what it was made of.
Exit code: 0 done, 2 wrong usage or input.
"""


def fitting_recipe(
    state: Mapping[str, Tensor],
    form: Format,
    recipes: Sequence[str],
    overrides: Sequence[str],
    left_out: Sequence[str] = (),
) -> tuple[str, dict[str, Tensor]]:
    """Find the first recipe whose model takes the tensors.

    Args:
        state: tensors by this package's names.
        form: where they come from.
        recipes: names or files.
        overrides: `key=value` for every recipe.
        left_out: names of tensors that the model has, and is to start anew.

    Returns:
        the recipe, and the tensors without counters that its model does not have.

    Raises:
        CheckpointMismatchError: there is none; the message has every difference from the recipe with the fewest.
    """
    found: dict[str, Differences] = {}
    for recipe in recipes:
        model = instantiate(apply_overrides(get_config(recipe), overrides).model)
        if form.teacher and hasattr(model, "teacher"):
            model.teacher.follow()
        found[recipe] = compare(state, model, (*form.counters, *left_out))
        if not found[recipe]:
            names = model.state_dict().keys()
            return recipe, {name: value for name, value in state.items() if name in names}
    nearest = min(found, key=lambda recipe: len(found[recipe]))
    others = "".join(f", nor {other}" for other in recipes if other != nearest)
    raise CheckpointMismatchError(
        f"the weights do not fit the model of {nearest}{others}; nothing was written\n{found[nearest]}\n"
        "Name the recipe that they were trained as with --config-file; sizes such as the number of classes go behind "
        "it: model.detector.num_classes=7"
    )


def count(state: Mapping[str, Tensor]) -> str:
    """How much there is."""
    return f"{len(state)} tensors, {sum(value.numel() for value in state.values()) / 1e6:.3f} M numbers"


def run(args: argparse.Namespace) -> None:
    """Read, convert, check, write, print."""
    form = FORMATS[args.source]
    tensors = read_tensors(args.input)
    print(f"{args.input}: {count(tensors)}")
    recipes = [args.config_file] if args.config_file else form.recipes
    converted = form.convert(tensors)
    left_out = [name for name in tensors if name not in converted] if form.anew else []
    recipe, state = fitting_recipe(converted, form, recipes, args.opts, left_out)
    print(f"{recipe}: {count(state)}; each {'other ' if left_out else ''}tensor of the model has a value")
    if left_out:
        print("\n".join(["left out, so that training starts them anew:", *(f"  {x}" for x in group_names(left_out))]))
    write_weights(
        args.output,
        state,
        {
            "format": args.source,
            "file": args.input.name,
            "sha256": hashlib.sha256(args.input.read_bytes()).hexdigest(),
            "recipe": " ".join([recipe, *args.opts]),
        },
    )
    print(f"wrote {args.output}, {args.output.stat().st_size / 1e6:.1f} MB")


def parse() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Make a checkpoint of this package from weights that a paper's authors published.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("input", type=Path, metavar="IN", help="file of the authors, .pth or .pkl")
    parser.add_argument("output", type=Path, metavar="OUT", help="checkpoint to write, .pth")
    parser.add_argument("--from", dest="source", required=True, choices=FORMATS, help="whose file it is, see below")
    parser.add_argument(
        "--config-file",
        metavar="FILE_OR_NAME",
        help="the recipe whose model the weights are for (default: the first of the format's recipes that they fit)",
    )
    parser.add_argument("opts", nargs="*", metavar="key=value", help="overrides of that recipe, as of train_net.py")
    return parser


def main() -> int:
    """Parse and run; a mistake of the user is one message."""
    parser = parse()
    args = parser.parse_intermixed_args()
    if args.output.suffix != ".pth":
        parser.error(f"OUT {args.output}: the name must end in .pth")
    if not args.output.parent.is_dir():
        parser.error(f"OUT {args.output}: there is no folder {args.output.parent}")
    if args.output.resolve() == args.input.resolve():
        parser.error(f"OUT {args.output}: is the file of the authors; name another")
    if args.opts and not args.config_file:
        parser.error(f"{args.opts[0]}: overrides need the recipe that they are for, --config-file")
    try:
        run(args)
    except USER_MISTAKES as error:
        parser.exit(2, f"{parser.prog}: error: {describe(error)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
