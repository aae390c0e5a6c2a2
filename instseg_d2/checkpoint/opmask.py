"""Weights of OPMask's authors (dbtmpl/OPMask) under this package's names."""

import re
from collections.abc import Mapping

import torch

from .conversion import rename

# What stands in buffers there and in settings here.
_SETTINGS = re.compile(r"pixel_mean|pixel_std|proposal_generator\.anchor_generator\.cell_anchors\.\d+")
_SHARED = re.compile(r"(backbone|proposal_generator)\..+|roi_heads\.box_head\.conv\d+\..+")
_MASK_HEAD = "roi_heads.mask_head."
# Part of a name there -> here.
_PARTS = (
    (re.compile(r"roi_heads\.box_head\.(cls_score|bbox_pred)\.(.+)"), r"roi_heads.box_predictor.\1.\2"),
    (re.compile(r"roi_heads\.mask_head\.mask_down(\d+)\.(.+)"), _MASK_HEAD + r"mask_fcn\1.\2"),
    (re.compile(r"roi_heads\.mask_head\.mask_up1\.(.+)"), _MASK_HEAD + r"deconv.\1"),
    (re.compile(r"roi_heads\.mask_head\.predictor\.(.+)"), _MASK_HEAD + r"predictor.\1"),
)


def _new_name(name: str) -> str | None:
    if _SHARED.fullmatch(name):
        return name
    for pattern, replacement in _PARTS:
        if found := pattern.fullmatch(name):
            return found.expand(replacement)
    return None


def convert_opmask(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename a whole model to `GeneralizedRCNN` with `CAMROIHeads`.

    Args:
        state: tensors by name, as in the `model` dict of the authors' checkpoints.

    Returns:
        tensors by name, without pixel statistics and anchors, which are settings here.

    Raises:
        CheckpointMismatchError: names are not of that model.
    """
    own = {name: value for name, value in state.items() if not _SETTINGS.fullmatch(name)}
    return rename(own, _new_name, "an OPMask model on ResNet FPN")
