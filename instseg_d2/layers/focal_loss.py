"""The focal loss of dense classifiers (RetinaNet, arXiv:1708.02002)."""

import torch
from fvcore.nn import sigmoid_focal_loss_jit


def focal_loss_of_labels(logits: torch.Tensor, labels: torch.Tensor, *, alpha: float, gamma: float) -> torch.Tensor:
    """Sum the sigmoid focal loss over all items and classes.

    Args:
        logits: (..., K), one per class; computed with in float32.
        labels: (...) int64 in [0, K]; K is the background, which has no logit.
        alpha: weight of positives, 1 - alpha that of negatives; negative for no weighting.
        gamma: how much easy items are damped, 0 for not at all.

    Returns:
        A scalar.
    """
    num_classes = logits.shape[-1]
    # `one_hot` would take eight bytes a logit; the column of the background is cut off again.
    targets = logits.new_zeros((*labels.shape, num_classes + 1)).scatter_(-1, labels[..., None], 1.0)
    return sigmoid_focal_loss_jit(logits, targets[..., :num_classes], alpha=alpha, gamma=gamma, reduction="sum")
