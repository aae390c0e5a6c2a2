"""Class activation maps (CAM): where in a region a class is seen, from a classifier behind a global average."""

import torch
from torch.nn import functional as F


def class_activation_maps(features: torch.Tensor, weights: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """The map of one class for each region (Zhou et al., arXiv:1512.04150; OPMask, arXiv:2011.11787, Sec. 3.1).

    Its average over the region is the logit that a linear classifier gives to the averaged features, but for the bias.
    Of the classifier no other row is computed with.

    Args:
        features: (R, C, H, W), before the average.
        weights: (K, C) of the classifier.
        classes: (R,) int64, below K.

    Returns:
        (R, H, W).
    """
    return torch.einsum("rchw,rc->rhw", features, weights[classes].to(features.dtype))


def stretch_maps(maps: torch.Tensor, size: tuple[int, int], eps: float = 1e-4) -> torch.Tensor:
    """Bring each map to the range 0 to 1, from its least to its greatest value, and then to a size.

    Args:
        maps: (R, H, W).
        size: (height, width) of the result, bilinear.
        eps: a map whose values differ by less is divided by this instead, so that a constant one becomes 0.

    Returns:
        (R, 1, *size) float32 in [0, 1].
    """
    maps = maps.float()
    if len(maps) == 0:
        return F.interpolate(maps[:, None], size=size)
    flat = maps.flatten(1)
    # `min` and `max` give the gradient to one position; `amin` and `amax` would share it between equal ones.
    least, greatest = (extreme.values[:, None, None] for extreme in (flat.min(dim=1), flat.max(dim=1)))
    stretched = (maps - least) / (greatest - least).clamp(min=eps)
    return F.interpolate(stretched[:, None], size=size, mode="bilinear", align_corners=False)
