"""Weights of the code that SIM's authors released (lslrh/SIM, made of AdelaiDet's) under this package's names."""

import re
from collections.abc import Mapping

import torch

from .adelaidet_condinst import SIZES, condinst_name, join_scales
from .conversion import rename

# The parts that have a momentum copy, and its names.
_TEACHER = re.compile(r"(backbone|proposal_generator|mask_branch|controller)_ema\.")
_PROTOTYPES, _STEPS = "mask_head.prototypes", "_iter"


def _new_name(name: str) -> str | None:
    """The new name of a tensor, with the level behind `level_scales`; None if it is not of that model."""
    if name == _PROTOTYPES:
        return "labeler.prototypes.vectors"
    if not (found := _TEACHER.match(name)):
        return condinst_name(name)
    student = condinst_name(f"{found[1]}.{name[found.end() :]}")
    return None if student is None else f"teacher.{student.removeprefix('detector.')}"


def convert_sim(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename a whole model, student, teacher and prototypes, to `SIM`.

    The released code normalizes prototypes in a way of its own, so they go on as they did in a model with
    `normalized="prototypes"` alone; masks do not depend on them in inference.

    Args:
        state: tensors by name, as in the `model` dict of a checkpoint of that code.

    Returns:
        tensors by name.

    Raises:
        CheckpointMismatchError: names are not of that model.
    """
    own = {name: value for name, value in state.items() if name not in (SIZES, _STEPS)}
    result = join_scales(rename(own, _new_name, "the released code of SIM"))
    if _STEPS in state:
        # Both the pseudo masks and the pairwise loss wait for their warm-up.
        steps = state[_STEPS].reshape(()).long()
        result.update({"iterations": steps, "supervision.iterations": steps.clone()})
    return result
