"""Losses that bring embeddings of the same object together and push those of others apart."""

import torch
from torch.nn import functional as F


def multi_positive_loss(similarity: torch.Tensor, same: torch.Tensor) -> torch.Tensor:
    """Quasi-dense contrastive loss (arXiv:2006.06664, section 3.2): every positive against every negative of a row.

    A row costs log(1 + sum over its positives and negatives of exp(negative - positive)). It is computed on logarithms
    from one sum over the positives and one over the negatives: nothing overflows, and memory grows with K * S.

    Args:
        similarity: (K, S) dot products, in float32 or wider; K and S may be 0.
        same: (K, S) bool, whether both show the same object.

    Returns:
        the mean over the rows that have a positive; a zero that keeps the graph if none has.
    """
    nothing = torch.finfo(similarity.dtype).min
    positive = (-similarity).masked_fill(~same, nothing).logsumexp(dim=1)
    negative = similarity.masked_fill(same, nothing).logsumexp(dim=1)
    # Exactly 0 for a row without positives or without negatives.
    return F.softplus(positive + negative).sum() / same.any(dim=1).sum().clamp(min=1)


def cosine_loss(
    cosine: torch.Tensor, same: torch.Tensor, *, negative_margin: float = 0.3, negatives_per_positive: int = 3
) -> torch.Tensor:
    """Squared error of cosines against 1 for the same object and 0 for others (arXiv:2006.06664, section 3.2).

    As released: a negative costs nothing up to the margin, what is below 0 counts as 0, and the negatives that cost
    least are left out where there are too many.

    Args:
        cosine: (K, S) of -1 to 1, in float32 or wider; K and S may be 0.
        same: (K, S) bool, whether both show the same object.
        negative_margin: subtracted from the cosine of different objects.
        negatives_per_positive: at most that many negatives for each positive of the whole matrix.

    Returns:
        the mean over the pairs that are kept; a zero that keeps the graph if there is no positive.
    """
    target = same.to(cosine.dtype)
    costs = ((cosine - negative_margin * (1 - target)).clamp(min=0, max=1) - target) ** 2
    positives, negatives = costs[same], costs[~same]
    count = min(negatives_per_positive * len(positives), len(negatives))
    return (positives.sum() + negatives.topk(count).values.sum()) / max(len(positives) + count, 1)
