"""Losses of whole-image masks, from masks and from boxes alone (BoxInst, arXiv:2012.02310).

K = instances, P = neighbors of a pixel (see `neighbors`), maps of size (H, W).
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .neighbors import neighbor_offsets, pair_windows


def dice_loss(probabilities: torch.Tensor, targets: torch.Tensor, eps: float = 1e-5) -> torch.Tensor:
    """1 - 2 sum(p t) / (sum(p^2) + sum(t^2) + eps) of each instance (V-Net, arXiv:1606.04797).

    Args:
        probabilities: (K, ...).
        targets: the same shape, in [0, 1], any dtype.
        eps: keeps empty maps from dividing by zero.

    Returns:
        (K,); 1, without a gradient, where the target is empty.
    """
    p, t = probabilities.flatten(1), targets.flatten(1).to(probabilities)
    return 1 - 2 * (p * t).sum(dim=1) / (p.square().sum(dim=1) + t.square().sum(dim=1) + eps)


def projection_loss(probabilities: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Dice loss of the maxima over rows plus that of the maxima over columns (BoxInst, the projection term).

    The maxima of a mask are those of its tight box, so filled boxes as targets are enough.

    Args:
        probabilities: (K, H, W).
        targets: (K, H, W), 0 or 1, any dtype.

    Returns:
        (K,).
    """
    # `max` gives the gradient to one pixel; `amax` would share it between equal ones.
    return sum(dice_loss(probabilities.max(dim=d).values, targets.amax(dim=d)) for d in (1, 2))


class _PairwiseLoss(torch.autograd.Function):
    """Sum of the pairs' losses over max(number of pairs, 1), with the gradient computed on the way.

    With a and b the logits of a pair, -log(p_a p_b + (1 - p_a)(1 - p_b)) has the derivative
    sigmoid(a) - sigmoid(a + b) by a. So one map of the size of the logits is all that is kept for the backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: torch.Tensor,
        edges: torch.Tensor,
        regions: torch.Tensor,
        images: torch.Tensor,
        offsets: list[tuple[int, int]],
    ) -> torch.Tensor:
        both_ones = F.logsigmoid(logits)
        both_zeros = both_ones - logits
        gradient = torch.zeros_like(logits) if ctx.needs_input_grad[0] else None
        total, count = logits.new_zeros(()), torch.zeros((), dtype=torch.int64, device=logits.device)
        for index in range(len(offsets) // 2, len(offsets)):
            here, there = pair_windows(offsets[index], *logits.shape[1:])
            # A pair counts once for each of its ends that lies in the region.
            weight = (edges[:, index][here][images] & regions[here]).byte()
            weight += edges[:, len(offsets) - 1 - index][there][images] & regions[there]
            count += weight.sum()
            ones = both_ones[here] + both_ones[there]
            same = torch.logaddexp(ones, both_zeros[here] + both_zeros[there])
            total -= same.mul_(weight).sum()
            if gradient is not None:
                joint = torch.sigmoid(logits[here] + logits[there])
                for end in (here, there):
                    gradient[end] += (torch.sigmoid(logits[end]) - joint).mul_(weight)
        count = count.clamp(min=1)
        if gradient is not None:
            ctx.save_for_backward(gradient.div_(count))
        return total / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad_output, None, None, None, None


def pairwise_loss(
    logits: torch.Tensor,
    edges: torch.Tensor,
    regions: torch.Tensor,
    images: torch.Tensor,
    *,
    size: int = 3,
    dilation: int = 2,
) -> torch.Tensor:
    """Neighbors of similar color have the same label: mean of -log P(same) over such pairs (BoxInst, Eq. 5).

    P(same) = p_i p_j + (1 - p_i)(1 - p_j). A pair counts from each of its ends i that lies in the instance's region.

    Takes a map or two of the size of the logits beyond these, not the 8 copies of them that a direct transcription has
    of each intermediate result.

    Args:
        logits: (K, H, W), float32 or float64.
        edges: (N, P, H, W) bool, per image: pixel i and its neighbor are similar (`neighbor_similarity`, thresholded).
        regions: (K, H, W) bool, filled boxes.
        images: (K,) int64, image of each instance.
        size: side of the window of neighbors.
        dilation: distance between neighbors.

    Returns:
        A scalar; 0 if there is no pair. Differentiable once.

    Raises:
        ValueError: `edges` belong to another number of neighbors.
    """
    offsets = neighbor_offsets(size, dilation)
    if edges.shape[1] != len(offsets):
        raise ValueError(f"edges for {edges.shape[1]} neighbors, but size={size} has {len(offsets)}")
    return _PairwiseLoss.apply(logits, edges, regions, images, offsets)
