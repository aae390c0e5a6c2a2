"""Losses of small masks: tensors in, scalars out."""

import torch
from torch.nn import functional as F

from .box_mask_losses import dice_loss


def pick_channel(maps: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """The map of each region's own class.

    Args:
        maps: (R, C, M, M), one map a class, or C = 1 for class-agnostic maps.
        classes: (R,) int64; looked at only if C > 1.

    Returns:
        (R, M, M).
    """
    if maps.shape[1] == 1:
        return maps[:, 0]
    return maps[torch.arange(len(maps), device=maps.device), classes]


def mask_bce(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Binary cross entropy, averaged over regions and pixels (Mask R-CNN, arXiv:1703.06870, Sec. 3).

    Args:
        logits: any shape.
        targets: the same shape, in [0, 1].

    Returns:
        A float32 (or wider) scalar; without any element a zero that keeps the graph.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if logits.numel() == 0:
        return logits.sum()
    return F.binary_cross_entropy_with_logits(logits, targets.to(logits))


def dice_losses(logits: torch.Tensor, targets: torch.Tensor, *, epsilon: float) -> torch.Tensor:
    """Dice loss of masks that are given as logits, see `dice_loss`.

    Args:
        logits: (K, ...), one mask a row; computed with in float32 or wider.
        targets: the same shape, in [0, 1], any dtype.
        epsilon: keeps the quotient finite; 0.002 in SOLOv2's code, 1e-5 in CondInst's.

    Returns:
        (K,), in [0, 1].
    """
    probabilities = logits.to(torch.promote_types(logits.dtype, torch.float32)).sigmoid()
    return dice_loss(probabilities, targets, eps=epsilon)


@torch.no_grad()
def mask_error_rates(logits: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
    """How often a pixel is wrong at probability 0.5.

    Args:
        logits: any shape.
        targets: the same shape, foreground above 0.5.

    Returns:
        `accuracy`; `false_positive`, the share of background pixels called foreground; `false_negative`, the share of
        foreground pixels called background.
    """
    truth = targets > 0.5
    wrong = (logits > 0) != truth
    # One transfer for all counts: the device is waited for once.
    counts = torch.stack([wrong.sum(), truth.sum(), (wrong & truth).sum()]).tolist()
    num_wrong, num_truth, num_missed = counts
    return {
        "accuracy": 1 - num_wrong / max(truth.numel(), 1),
        "false_positive": (num_wrong - num_missed) / max(truth.numel() - num_truth, 1),
        "false_negative": num_missed / max(num_truth, 1),
    }
