"""Weights of AdelaiDet's SOLOv2 models under this package's names."""

import re
from collections.abc import Mapping

import torch

from .conversion import rename

_TOWERS = {"cate_tower": "category_tower", "kernel_tower": "kernel_tower"}
_PREDICTORS = {"cate_pred": "category_pred", "kernel_pred": "kernel_pred"}


def _new_name(name: str) -> str | None:
    """The new name of a tensor; None if it is of no SOLOv2."""
    if name.startswith("backbone."):
        return name
    # A tower is a list of convolution, norm, ReLU, convolution, ...
    if match := re.fullmatch(r"ins_head\.(\w+_tower)\.(\d+)\.(\w+)", name):
        tower, index, parameter = match[1], int(match[2]), match[3]
        kind = {0: "", 1: "norm."}.get(index % 3)
        return None if kind is None or tower not in _TOWERS else f"head.{_TOWERS[tower]}.{index // 3}.{kind}{parameter}"
    if match := re.fullmatch(r"ins_head\.(\w+_pred)\.(\w+)", name):
        return f"head.{_PREDICTORS[match[1]]}.{match[2]}" if match[1] in _PREDICTORS else None
    # Levels but the first have an upsampling behind each convolution.
    if match := re.fullmatch(r"mask_head\.convs_all_levels\.(\d+)\.conv(\d+)\.([01])\.(\w+)", name):
        level, index, parameter = int(match[1]), int(match[2]), match[4]
        position = 2 * index if level else 0
        return f"mask_branch.levels.{level}.{position}.{'norm.' * (match[3] == '1')}{parameter}"
    if match := re.fullmatch(r"mask_head\.conv_pred\.([01])\.(\w+)", name):
        return f"mask_branch.output.{'norm.' * (match[1] == '1')}{match[2]}"
    return None


def convert_adelaidet_solov2(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename AdelaiDet's SOLOv2 with GroupNorm to the model of `configs/common/models/solov2_fpn.py`.

    Args:
        state: tensors by name, as in the checkpoint's `model` dict.

    Raises:
        CheckpointMismatchError: names are not of that model.
    """
    return rename(state, _new_name, "an AdelaiDet SOLOv2 model with GroupNorm")
