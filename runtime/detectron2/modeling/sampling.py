"""Random choice of the anchors or proposals that a loss looks at."""

import torch

__all__ = ["subsample_labels"]


def subsample_labels(labels: torch.Tensor, num_samples: int, positive_fraction: float, bg_label: int):
    """Draw foreground and background entries at random, without repetition.

    At most `int(num_samples * positive_fraction)` are foreground; background fills up to `num_samples`. There are
    fewer where the labels have fewer.

    Args:
        labels (Tensor): (N,), -1 for ignored entries, `bg_label` for background, anything else for foreground.
        num_samples (int): how many to draw.
        positive_fraction (float): the largest share of foreground.
        bg_label (int): label of the background.

    Returns:
        Tensor: indices of the drawn foreground entries, int64.
        Tensor: indices of the drawn background entries, int64.
    """
    background = labels == bg_label
    pools = ((labels != -1) & ~background, background)
    drawn, room = [], int(num_samples * positive_fraction)
    for pool in pools:
        indices = pool.nonzero(as_tuple=True)[0]
        # A whole permutation for each pool, even when few are taken: the random state then moves as users expect.
        order = torch.randperm(indices.numel(), device=indices.device)
        drawn.append(indices[order[:room]])
        room = num_samples - drawn[0].numel()
    return tuple(drawn)
