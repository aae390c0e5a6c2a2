"""Weights of PCAN's authors (SysCV/pcan, for BDD100K, made of MMDetection's) under this package's names.

Both sides predict the same from them: background is the last class, deltas of boxes are scaled by 10, 10, 5, 5, P6 is
P5 thinned out, pixels are RGB and normalized to unit variance, and the stride is in the 3x3 convolutions.
"""

import re
from collections.abc import Mapping

import torch

from .conversion import rename
from .torchvision_resnet import rename_torchvision_resnet

_REFINE = "roi_head.refine_head."
# Patterns of names there, and names here.
_RENAMED = [
    (re.compile(pattern), new)
    for pattern, new in {
        r"rpn_head\.rpn_conv\.(.+)": r"proposal_generator.rpn_head.conv.\1",
        r"rpn_head\.rpn_cls\.(.+)": r"proposal_generator.rpn_head.objectness_logits.\1",
        r"rpn_head\.rpn_reg\.(.+)": r"proposal_generator.rpn_head.anchor_deltas.\1",
        r"roi_head\.bbox_head\.fc_cls\.(.+)": r"roi_heads.box_predictor.cls_score.\1",
        r"roi_head\.bbox_head\.fc_reg\.(.+)": r"roi_heads.box_predictor.bbox_pred.\1",
        r"roi_head\.mask_head\.upsample\.(.+)": r"roi_heads.mask_head.deconv.\1",
        r"roi_head\.mask_head\.conv_logits\.(.+)": r"roi_heads.mask_head.predictor.\1",
        r"roi_head\.track_head\.convs\.(\d+)\.conv\.(.+)": r"track_head.convs.\1.\2",
        r"roi_head\.track_head\.convs\.(\d+)\.gn\.(.+)": r"track_head.convs.\1.norm.\2",
        r"roi_head\.track_head\.(fcs|fc_embed)\.(.+)": r"track_head.\1.\2",
    }.items()
]
# Lists of modules whose numbers start from 0 there.
_NUMBERED = {
    r"neck\.lateral_convs\.(\d+)\.conv\.(.+)": ("backbone.fpn_lateral{}.", 2),
    r"neck\.fpn_convs\.(\d+)\.conv\.(.+)": ("backbone.fpn_output{}.", 2),
    r"roi_head\.bbox_head\.shared_fcs\.(\d+)\.(.+)": ("roi_heads.box_head.fc{}.", 1),
    r"roi_head\.mask_head\.convs\.(\d+)\.conv\.(.+)": ("roi_heads.mask_head.mask_fcn{}.", 1),
}
_REFINED = {
    r"conv1\.conv\.(.+)": r"segmentation.fuse.\1",
    r"conv2\.conv\.(.+)": r"segmentation.context.\1",
    r"convs\.(\d+)\.conv\.(.+)": r"segmentation.convs.\1.\2",
    r"upsample\.(.+)": r"segmentation.deconv.\1",
    r"conv_logits\.(.+)": r"segmentation.predictor.\1",
    "pos_mu": "start_foreground",
    "neg_mu": "start_background",
}
# Prototypes to start from, of each level; the release reads those of its two finest levels alone.
_LEVELS = {f"mu{index}": f"p{index + 2}" for index in range(5)}
_READ_LEVELS = ("p2", "p3")


def _refine_name(name: str) -> str | None:
    matches = ((re.fullmatch(pattern, name), new) for pattern, new in _REFINED.items())
    return next((match.expand(new) for match, new in matches if match), None)


def _model_name(name: str) -> str | None:
    """The new name of a tensor that is no part of the ResNet; None if it is not of that model."""
    if name.startswith(_REFINE):
        refined = _refine_name(name.removeprefix(_REFINE))
        return refined and f"instance_attention.{refined}"
    if name in _LEVELS:
        return f"frame_attention.attentions.{_LEVELS[name]}.means"
    for pattern, (new, first) in _NUMBERED.items():
        if match := re.fullmatch(pattern, name):
            return new.format(int(match[1]) + first) + match[2]
    return next((match.expand(new) for pattern, new in _RENAMED if (match := pattern.fullmatch(name))), None)


def _as_rows(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Prototypes (1, C, N) there are (N, C) here; other tensors stay."""
    prototypes = ("start_foreground", "start_background", "means")
    return {
        name: value[0].T.contiguous() if name.rpartition(".")[2] in prototypes else value
        for name, value in state.items()
    }


def convert_refine_head(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename the release's refinement head to `InstanceAttention(**RELEASED)`.

    Args:
        state: tensors by name, without the prefix `roi_head.refine_head.`.

    Raises:
        CheckpointMismatchError: names are not of that head.
    """
    return _as_rows(rename(state, _refine_name, "the refinement head of the PCAN release"))


def convert_pcan(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename a whole model of the release, of any of its three stages, to `TrackingRCNN`.

    Prototypes of levels that the release does not read are left out.

    Args:
        state: tensors by name, as in the entry `state_dict` of the authors' checkpoints.

    Raises:
        CheckpointMismatchError: names are not of that model.
    """
    backbone = "backbone."
    resnet = {name.removeprefix(backbone): value for name, value in state.items() if name.startswith(backbone)}
    others = {
        name: value
        for name, value in state.items()
        if not name.startswith(backbone) and _LEVELS.get(name, _READ_LEVELS[0]) in _READ_LEVELS
    }
    renamed = _as_rows(rename(others, _model_name, "the released code of PCAN"))
    return {f"backbone.bottom_up.{name}": value for name, value in rename_torchvision_resnet(resnet).items()} | renamed
