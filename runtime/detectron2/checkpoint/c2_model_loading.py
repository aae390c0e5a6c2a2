"""Match the names of foreign checkpoints (Caffe2, torchvision, bare backbones) to those of a model."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

logger = logging.getLogger(__name__)

_Rules = tuple[tuple[re.Pattern[str], str], ...]


def _rules(*pairs: tuple[str, str]) -> _Rules:
    return tuple((re.compile(pattern), replacement) for pattern, replacement in pairs)


# Applied one after the other: later rules see what the earlier ones made.
_BACKBONE_RULES = _rules(
    (r"^pred_(?=[bw]$)", "linear_"),
    (r"_", "."),
    (r"\.b$", ".bias"),
    (r"\.w$", ".weight"),
    # batch norm, group norm
    (r"bn\.(?:s|gamma)$", "norm.weight"),
    (r"bn\.(?:bias|beta)$", "norm.bias"),
    (r"bn\.(?:rm|running.mean$)", "norm.running_mean"),
    (r"bn\.(?:riv|running.var)$", "norm.running_var"),
    (r"gn\.s$", "norm.weight"),
    (r"gn\.bias$", "norm.bias"),
    # stem; other parts of a model have a conv1 too, hence the anchor
    (r"^res\.conv1\.norm\.", "conv1.norm."),
    (r"^conv1\.", "stem.conv1."),
    # residual blocks
    (r"\.branch1\.", ".shortcut."),
    (r"\.branch2a\.", ".conv1."),
    (r"\.branch2b\.", ".conv2."),
    (r"\.branch2c\.", ".conv3."),
    # DensePose
    (r"^body.conv.fcn", "body_conv_fcn"),
    (r"AnnIndex\.lowres", "ann_index_lowres"),
    (r"Index\.UV\.lowres", "index_uv_lowres"),
    (r"U\.lowres", "u_lowres"),
    (r"V\.lowres", "v_lowres"),
)

_RPN = "proposal_generator.rpn_head"
_DETECTOR_RULES = _rules(
    # RPN; with FPN its layers are shared by all levels and named after the first
    (r"conv\.rpn(?:\.fpn2)?", f"{_RPN}.conv"),
    (r"rpn\.bbox\.pred(?:\.fpn2)?", f"{_RPN}.anchor_deltas"),
    (r"rpn\.cls\.logits(?:\.fpn2)?", f"{_RPN}.objectness_logits"),
    # box head
    (r"^bbox\.pred", "bbox_pred"),
    (r"^cls\.score", "cls_score"),
    (r"^fc6\.", "box_head.fc1."),
    (r"^fc7\.", "box_head.fc2."),
    (r"^head\.conv", "box_head.conv"),
    # FPN, such as fpn.inner.res2.2.sum.lateral.weight and fpn.res2.2.sum.norm.bias
    (r"^fpn\.inner\.res(\d+)\.(?:.*\.)?(norm\.)(?:.*\.)?([^.]*)$", r"fpn_lateral\1.\2\3"),
    (r"^fpn\.inner\.res(\d+)\.(?:.*\.)?([^.]*)$", r"fpn_lateral\1.\2"),
    (r"^fpn\.res(\d+)\.(?:.*\.)?(norm\.)(?:.*\.)?([^.]*)$", r"fpn_output\1.\2\3"),
    (r"^fpn\.res(\d+)\.(?:.*\.)?([^.]*)$", r"fpn_output\1.\2"),
    # mask head; its last rule is for the C4 models
    (r"\.\[mask\]\.fcn", "mask_head.mask_fcn"),
    (r"^\.mask\.fcn", "mask_head.mask_fcn"),
    (r"mask\.fcn\.logits", "mask_head.predictor"),
    (r"conv5\.mask", "mask_head.deconv"),
    # keypoint head
    (r"conv\.fcn", "roi_heads.keypoint_head.conv_fcn"),
    (r"kps\.score\.lowres", "roi_heads.keypoint_head.score_lowres"),
    (r"kps\.score\.", "roi_heads.keypoint_head.score."),
)


def _rename(names: Iterable[str], rules: _Rules) -> list[str]:
    renamed = list(names)
    for pattern, replacement in rules:
        renamed = [pattern.sub(replacement, name) for name in renamed]
    return renamed


def convert_basic_c2_names(original_keys: list[str]) -> list[str]:
    """Translate the Caffe2 blob names of common backbones, in their order; names without a rule only lose their "_"."""
    return _rename(original_keys, _BACKBONE_RULES)


def convert_c2_detectron_names(
    weights: Mapping[str, torch.Tensor],
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Translate a Caffe2 Detectron model.

    Caffe2 puts the background first. Here it comes last in the class scores, and box and mask predictors have none.

    Args:
        weights: blob name -> tensor.

    Returns:
        The tensors by their names here, and the blob names by the names here.

    Raises:
        ValueError: two blobs get the same name.
    """
    blobs = sorted(weights)
    names = _rename(convert_basic_c2_names(blobs), _DETECTOR_RULES)
    origin = dict(zip(names, blobs, strict=True))
    if len(origin) < len(blobs):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"Several Caffe2 blobs translate to the same name: {twice}")

    converted = {}
    for name, blob in origin.items():
        value = weights[blob]
        if name.startswith("cls_score."):
            value = torch.cat([value[1:], value[:1]])
            logger.info(f"{blob}: background moved from index 0 to index {len(value) - 1}")
        elif name.startswith(("bbox_pred.", "mask_head.predictor.")):
            background = 4 if name.startswith("bbox_pred.") else 1
            value = value[background:]
            logger.info(f"{blob}: background removed, {tuple(weights[blob].shape)} -> {tuple(value.shape)}")
        converted[name] = value
    return converted, origin


def align_and_update_state_dicts(
    model_state_dict: Mapping[str, torch.Tensor],
    ckpt_state_dict: Mapping[str, torch.Tensor],
    c2_conversion: bool = True,
) -> Mapping[str, torch.Tensor]:
    """Rename the entries of a checkpoint to the model's names, which are taken to be the longer ones.

    An entry belongs to the model name that equals it or ends in it after a dot: ``res2.conv1.weight`` goes to
    ``backbone.bottom_up.res2.conv1.weight``. Where several entries fit a name, the longest is taken.

    Args:
        model_state_dict: what the model has.
        ckpt_state_dict: what the checkpoint has.
        c2_conversion: translate the checkpoint's names from Caffe2's first.

    Returns:
        The checkpoint's tensors under the model's names; entries without a match or of another shape (those are
        warned about) keep their own.

    Raises:
        ValueError: one entry fits several parameters of the model.
    """
    origin: dict[str, str] = {}
    if c2_conversion:
        ckpt_state_dict, origin = convert_c2_detectron_names(ckpt_state_dict)

    target_of: dict[str, str] = {}  # checkpoint name -> model name
    for target in sorted(model_state_dict):
        source = _longest_suffix_in(ckpt_state_dict, target)
        if source is None:
            continue
        shape, expected = tuple(ckpt_state_dict[source].shape), tuple(model_state_dict[target].shape)
        if shape != expected:
            logger.warning(
                f"{source} is not loaded: its shape is {shape} in the checkpoint, "
                f"but that of {target} is {expected} in the model"
            )
            continue
        if source in target_of:
            raise ValueError(
                f"{source} of the checkpoint matches both {target_of[source]} and {target} of the model: "
                "cannot match one checkpoint key to several parameters"
            )
        target_of[source] = target

    if not target_of:
        logger.warning("No weights in checkpoint matched with model.")
        return ckpt_state_dict
    submodule = ".".join(_common_prefix(name.split(".")[:-1] for name in target_of.values())) or "model"
    logger.info(f"{len(target_of)} tensors of the checkpoint matched with submodule {submodule}")
    for source, target in target_of.items():
        logger.debug(f"{origin.get(source, source)} -> {target}")

    aligned = {target: ckpt_state_dict[source] for source, target in target_of.items()}
    aligned.update({name: ckpt_state_dict[name] for name in sorted(ckpt_state_dict) if name not in target_of})
    return aligned


def _longest_suffix_in(names: Mapping[str, Any], target: str) -> str | None:
    """The longest of ``names`` that is ``target`` or the end of it after a dot."""
    start = 0
    while target[start:] not in names:
        start = target.find(".", start) + 1
        if start == 0:
            return None
    return target[start:]


def _common_prefix(sequences: Iterable[Sequence[str]]) -> list[str]:
    shared = []
    for items in zip(*sequences, strict=False):
        if len(set(items)) > 1:
            break
        shared.append(items[0])
    return shared


def _longest_common_prefix_str(names: list[str]) -> str:
    return "".join(_common_prefix(names))
