"""The base stage of few-shot training as a start for other categories, without what scores the old ones."""

from collections.abc import Mapping

import torch

from .checkpointer import CheckpointMismatchError

# Layers with outputs of their own for each class, as far as they are not class-agnostic.
_CLASSIFIER, _BOXES, _MASKS = "cls_score", "bbox_pred", "mask_head.predictor"


def drop_class_layers(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Leave the layers out that belong to the categories of a training.

    These are the classifier of FCOS; of an R-CNN the classifiers of its box predictors, and, where they have outputs
    for each class, the boxes of these and the predictor of the mask head.

    Args:
        state: tensors by name.

    Returns:
        the other tensors, as they are.

    Raises:
        CheckpointMismatchError: there is no classifier.
    """
    owners = {name.rpartition(f"{_CLASSIFIER}.")[0] for name in state if f"{_CLASSIFIER}." in name}
    if not owners:
        raise CheckpointMismatchError(f"the weights have no layer '{_CLASSIFIER}': they are not of FCOS or an R-CNN")
    return {name: value for name, value in state.items() if not _scores_classes(name, value, owners)}


def _scores_classes(name: str, value: torch.Tensor, owners: set[str]) -> bool:
    layer = name.rpartition(".")[0]
    owner, _, kind = layer.rpartition(".")
    if f"{owner}." not in owners:
        # One output is that of a class-agnostic mask.
        return layer.endswith(_MASKS) and len(value) > 1
    # FCOS and class-agnostic R-CNNs have the four sides of one box.
    return kind == _CLASSIFIER or (kind == _BOXES and len(value) > 4)
