"""Weights of the authors' BCNet release (FCOS with ResNet-50, -101, ResNeXt-101) under this package's names."""

from collections.abc import Mapping

import torch

from .checkpointer import CheckpointMismatchError

# Of the mask head. The release calls the first layer "boundary" and marks the occluder by "bo".
_MASK_HEAD = {
    "boundary_fcn": "occluder.conv",
    "mask_fcn": "occludee.conv",
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
    "head.cls_tower": "head.cls_subnet",
    "head.bbox_tower": "head.bbox_subnet",
    "head.cls_logits": "head.cls_score",
    "head.bbox_pred": "head.bbox_pred",
    "head.centerness": "head.ctrness",
}


def _rename(module: str, names: Mapping[str, str]) -> str | None:
    """The new name of a module, whose own name is listed, or is a listed one with a number behind it."""
    if module in names:
        return names[module]
    stem = module.rstrip("0123456789")
    return names[stem] + module[len(stem) :] if stem in names else None


def convert_mask_head(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename the release's mask head to `BCNetHead(**RELEASED)`.

    Args:
        state: tensors by name, without the prefix `mask_head.`.

    Raises:
        CheckpointMismatchError: a name is not of that head.
    """
    result = {}
    for name, value in state.items():
        module, _, parameter = name.rpartition(".")
        renamed = _rename(module, _MASK_HEAD)
        if renamed is None:
            raise CheckpointMismatchError(f"'{name}' is no part of the mask head of the BCNet release")
        result[f"{renamed}.{parameter}"] = value
    return result


def convert_bcnet(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename a whole model of the release to `DetectThenSegment` with `FCOS` and `BCNetHead(**RELEASED)`.

    Args:
        state: tensors by name, as in the release's `model` dict.

    Raises:
        CheckpointMismatchError: a name is not of that model.
    """
    head = {name.removeprefix("mask_head."): value for name, value in state.items() if name.startswith("mask_head.")}
    result = {f"mask_head.{name}": value for name, value in convert_mask_head(head).items()}
    scales = {}
    for name, value in state.items():
        if name.startswith("mask_head."):
            continue
        if name.startswith("backbone."):
            result[f"detector.{name}"] = value
        elif name.startswith("head.scales."):
            scales[int(name.split(".")[2])] = value.reshape(())
        else:
            old = next((old for old in _DETECTOR if name.startswith(f"{old}.")), None)
            if old is None:
                raise CheckpointMismatchError(f"'{name}' is no part of a BCNet model on FCOS")
            result[f"detector.{_DETECTOR[old]}{name[len(old) :]}"] = value
    if scales:
        result["detector.head.level_scales"] = torch.stack([scales[level] for level in sorted(scales)])
    return result
