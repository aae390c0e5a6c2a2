"""Optimal transport with entropy: who goes where, when every place takes the same share."""

import math

import torch


@torch.no_grad()
def sinkhorn(scores: torch.Tensor, *, epsilon: float = 0.05, iterations: int = 3) -> torch.Tensor:
    """The plan Q that maximizes <Q, scores> + epsilon * entropy(Q), with the same mass for each row and each column.

    Sinkhorn and Knopp's alternation, on logarithms and in float32 or wider, under autocast too: nothing overflows,
    however small `epsilon` is.

    Args:
        scores: (..., L, N), of N items at each of L places; N may be 0.
        epsilon: weight of the entropy; the smaller, the closer the plan is to a hard assignment.
        iterations: how often rows and then columns are brought to their mass; the columns are exact after it.

    Returns:
        (..., L, N), non-negative; columns sum to 1 / N, rows, in the limit of many iterations, to 1 / L.
    """
    with torch.autocast(scores.device.type, enabled=False):
        logs = scores.to(torch.promote_types(scores.dtype, torch.float32)) / epsilon
        places, items = logs.shape[-2:]
        if items == 0:
            return torch.zeros_like(logs)
        for _ in range(iterations):
            logs = logs - logs.logsumexp(dim=-1, keepdim=True) - math.log(places)
            logs = logs - logs.logsumexp(dim=-2, keepdim=True) - math.log(items)
        return logs.exp()
