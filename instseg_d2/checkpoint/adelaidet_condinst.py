"""Weights of AdelaiDet's CondInst and BoxInst on ResNet FPN under this package's names."""

import re
from collections.abc import Mapping

import torch

from .checkpointer import CheckpointMismatchError

# What a name begins with there and here; a tower's numbers are those of the same layers.
_PREFIXES = {
    "backbone.": "detector.backbone.",
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
_SCALE = re.compile(r"proposal_generator\.fcos_head\.scales\.(\d+)\.scale")
# Layer 0 of a block is the convolution, layer 1 its norm.
_BLOCK = re.compile(r"((?:mask_branch\.(?:refine|tower)|semantic_head\.convs)\.\d+)\.([01])\.")
# The divisors of coordinates, which are a setting here; and the steps of the warm-up, which only BoxInst counts.
_SIZES, _STEPS = "mask_head.sizes_of_interest", "mask_head._iter"


def convert_condinst(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename a whole model to `CondInst`, with `SemanticHead` if the checkpoint has one.

    Args:
        state: tensors by name, as in the `model` dict of AdelaiDet's checkpoints.

    Returns:
        tensors by name. `supervision.iterations`, the steps of the warm-up, has a place in a model with `BoxInstLoss`
        alone.

    Raises:
        CheckpointMismatchError: a name is not of that model.
    """
    result, scales = {}, {}
    for name, value in state.items():
        scale = _SCALE.fullmatch(name)
        prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), None)
        if scale:
            scales[int(scale[1])] = value.reshape(())
        elif name == _STEPS:
            result["supervision.iterations"] = value.reshape(()).long()
        elif prefix:
            renamed = _PREFIXES[prefix] + name[len(prefix) :]
            result[_BLOCK.sub(lambda found: f"{found[1]}.norm." if found[2] == "1" else f"{found[1]}.", renamed)] = (
                value
            )
        elif name != _SIZES:
            raise CheckpointMismatchError(f"'{name}' is no part of AdelaiDet's CondInst or BoxInst on ResNet FPN")
    if scales:
        result["detector.head.level_scales"] = torch.stack([scales[level] for level in sorted(scales)])
    return result
