"""Weights of AdelaiDet's CondInst and BoxInst on ResNets with FPN or BiFPN under this package's names."""

import re
from collections.abc import Mapping

import torch

from .adelaidet_bifpn import bifpn_name
from .conversion import rename

# What a name begins with there and here; a tower's numbers are those of the same layers.
_PREFIXES = {
    "proposal_generator.fcos_head.cls_tower.": "detector.head.cls_subnet.",
    "proposal_generator.fcos_head.bbox_tower.": "detector.head.bbox_subnet.",
    "proposal_generator.fcos_head.cls_logits.": "detector.head.cls_score.",
    "proposal_generator.fcos_head.bbox_pred.": "detector.head.bbox_pred.",
    "proposal_generator.fcos_head.ctrness.": "detector.head.ctrness.",
    "controller.": "detector.head.extra.",
    "mask_branch.refine.": "mask_branch.refine.",
    "mask_branch.tower.": "mask_branch.tower.",
    "mask_branch.seg_head.": "semantic_head.convs.",
    "mask_branch.logits.": "semantic_head.predictor.",
}
_BACKBONE = "backbone."
# One number a level there, one vector here.
_SCALE = re.compile(r"proposal_generator\.fcos_head\.scales\.(\d+)\.scale")
_LEVEL = re.compile(r"(.+\.level_scales)\.(\d+)")
# Layer 0 of a block is the convolution, layer 1 its norm.
_BLOCK = re.compile(r"((?:mask_branch\.(?:refine|tower)|semantic_head\.convs)\.\d+)\.([01])\.")
# The divisors of coordinates, which are a setting here; and the steps of the warm-up, which only BoxInst counts.
SIZES, _STEPS = "mask_head.sizes_of_interest", "mask_head._iter"


def condinst_name(name: str) -> str | None:
    """The new name of a tensor, with the level behind `level_scales`; None if it is of neither model."""
    if name.startswith(_BACKBONE):
        own = name.removeprefix(_BACKBONE)
        # An FPN has the same names here.
        return f"detector.{_BACKBONE}{bifpn_name(own) or own}"
    if found := _SCALE.fullmatch(name):
        return f"detector.head.level_scales.{found[1]}"
    prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), None)
    if prefix is None:
        return None
    renamed = _PREFIXES[prefix] + name[len(prefix) :]
    return _BLOCK.sub(lambda found: f"{found[1]}.norm." if found[2] == "1" else f"{found[1]}.", renamed)


def join_scales(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Make one vector of the numbers that `condinst_name` names by level."""
    levels = {name: found for name in state if (found := _LEVEL.fullmatch(name))}
    result = {name: value for name, value in state.items() if name not in levels}
    for vector in {found[1] for found in levels.values()}:
        numbers = {int(found[2]): state[name].reshape(()) for name, found in levels.items() if found[1] == vector}
        result[vector] = torch.stack([numbers[level] for level in sorted(numbers)])
    return result


def convert_condinst(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename a whole model to `CondInst`, with `SemanticHead` if the checkpoint has one.

    Args:
        state: tensors by name, as in the `model` dict of AdelaiDet's checkpoints.

    Returns:
        tensors by name. `supervision.iterations`, the steps of the warm-up, has a place in a model with `BoxInstLoss`
        alone.

    Raises:
        CheckpointMismatchError: names are not of that model.
    """
    own = {name: value for name, value in state.items() if name not in (SIZES, _STEPS)}
    result = join_scales(rename(own, condinst_name, "AdelaiDet's CondInst or BoxInst"))
    if _STEPS in state:
        result["supervision.iterations"] = state[_STEPS].reshape(()).long()
    return result
