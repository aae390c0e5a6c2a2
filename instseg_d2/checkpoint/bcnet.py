"""Weights of the authors' BCNet release (FCOS with ResNet-50, -101, ResNeXt-101) under this package's names.

Both sides predict the same from them: boxes in strides times a scale per level, cut at 0; centerness from the tower of
the boxes; classes in COCO's order from 0; P6 from P5; BGR pixels.
"""

import re
from collections.abc import Mapping

import torch

from .checkpointer import CheckpointMismatchError
from .conversion import rename

# The release calls the first layer "boundary" and marks the occluder by "bo".
_TOWERS = {"boundary": "occluder", "mask": "occludee"}
_MASK_HEAD = {
    "deconv": "deconvs.masks",
    "boundary_deconv": "deconvs.contours",
    "bo_deconv": "deconvs.occluder_masks",
    "boundary_deconv_bo": "deconvs.occluder_contours",
    "predictor": "predictors.masks",
    "boundary_predictor": "predictors.contours",
    "predictor_bo": "predictors.occluder_masks",
    "boundary_predictor_bo": "predictors.occluder_contours",
    "blocker_bound_bo": "occluder.graph.norm",
    "blocker_bound": "occludee.graph.norm",
    **{
        f"{part}_transform_bound{suffix}": f"{layer}.graph.{part}"
        for part in ("query", "key", "value", "output")
        for suffix, layer in (("_bo", "occluder"), ("", "occludee"))
    },
}
_DETECTOR = {
    "cls_tower": "cls_subnet",
    "bbox_tower": "bbox_subnet",
    "cls_logits": "cls_score",
    "bbox_pred": "bbox_pred",
    "centerness": "ctrness",
}
_SCALE = re.compile(r"head\.scales\.(\d+)\.scale")


def _mask_head_name(name: str) -> str | None:
    module, _, parameter = name.rpartition(".")
    if found := re.fullmatch(r"(boundary|mask)_fcn(\d+)", module):
        return f"{_TOWERS[found[1]]}.conv{found[2]}.{parameter}"
    return f"{_MASK_HEAD[module]}.{parameter}" if module in _MASK_HEAD else None


def _model_name(name: str) -> str | None:
    part, _, rest = name.partition(".")
    if part == "mask_head":
        renamed = _mask_head_name(rest)
        return renamed and f"mask_head.{renamed}"
    if part == "backbone":
        return f"detector.{name}"
    module, _, parameter = rest.partition(".")
    return f"detector.head.{_DETECTOR[module]}.{parameter}" if part == "head" and module in _DETECTOR else None


def _level_scales(scales: Mapping[int, torch.Tensor]) -> torch.Tensor:
    if sorted(scales) != list(range(len(scales))) or any(value.numel() != 1 for value in scales.values()):
        shapes = ", ".join(f"{level}: {tuple(scales[level].shape)}" for level in sorted(scales))
        raise CheckpointMismatchError(f"head.scales ({shapes}): there must be one number for each level, from 0")
    return torch.cat([scales[level].reshape(1) for level in range(len(scales))])


def convert_mask_head(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename the release's mask head to `BCNetHead(**RELEASED)`.

    Args:
        state: tensors by name, without the prefix `mask_head.`.

    Raises:
        CheckpointMismatchError: names that are not of that head.
    """
    return rename(state, _mask_head_name, "the mask head of the BCNet release")


def convert_bcnet(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename a whole model of the release to `DetectThenSegment` with `FCOS` and `BCNetHead(**RELEASED)`.

    Args:
        state: tensors by name, as in the release's `model` dict.

    Raises:
        CheckpointMismatchError: names that are not of that model, or scales of levels that are not one for each.
    """
    scales = {int(found[1]): value for name, value in state.items() if (found := _SCALE.fullmatch(name))}
    others = {name: value for name, value in state.items() if not _SCALE.fullmatch(name)}
    result = rename(others, _model_name, "a BCNet model on FCOS")
    if scales:
        result["detector.head.level_scales"] = _level_scales(scales)
    return result
