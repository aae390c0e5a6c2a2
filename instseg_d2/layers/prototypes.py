"""Prototypes: a set of pixels condensed to a mixture of Gaussians, and attention to these instead of to the pixels.

PCAN, thesis eq. 5.2 to 5.7. Pixels come without their places, as (B, n, C): each of the B sets has its own mixture of N
components, all with the same weight and the same fixed variance in all directions. Everything is computed in float32 or
wider, under autocast too. Products of matrices do the work, so that tools which count multiply-adds see all of it.
"""

import math
from collections.abc import Sequence

import torch

METRICS = ("distance", "dot")
# Of the authors' release, against division by zero: of a component's mass, and of a mean's length.
_EPS = 1e-6


def _wide(*tensors: torch.Tensor) -> list[torch.Tensor]:
    return [tensor.to(torch.promote_types(tensor.dtype, torch.float32)) for tensor in tensors]


def random_means(count: int, channels: int) -> torch.Tensor:
    """(count, channels) means of length 1 in random directions, to start from."""
    return unit_length(torch.randn(count, channels) * math.sqrt(2 / max(count, 1)))


def unit_length(vectors: torch.Tensor) -> torch.Tensor:
    """(..., C) vectors scaled to length 1; those of length 0 stay."""
    return vectors / (vectors.norm(dim=-1, keepdim=True) + _EPS)


def posteriors(pixels: torch.Tensor, means: torch.Tensor, *, variance: float, metric: str = "distance") -> torch.Tensor:
    """The share that each component has in each pixel (eq. 5.3).

    Args:
        pixels: (B, n, C).
        means: (B, N, C).
        variance: sigma^2 > 0.
        metric: "distance": softmax over the components of -|k - mu|^2 / (2 sigma^2); "dot": of <k, mu> / sigma^2, the
            authors' release. Both are the same where all means have the same length.

    Returns:
        (B, n, N) in float32 or wider; sums to 1 over N.

    Raises:
        ValueError: unknown metric, or a variance that is not positive.
    """
    if metric not in METRICS or variance <= 0:
        raise ValueError(f"metric={metric!r}, variance={variance}: must be one of {METRICS}, and positive")
    with torch.autocast(pixels.device.type, enabled=False):
        pixels, means = _wide(pixels, means)
        # |k|^2 is the same for all components: the softmax does not see it, and the rest is a product of matrices.
        logits = pixels @ (means / variance).transpose(1, 2)
        if metric == "distance":
            logits = logits - (means.square().sum(dim=-1) / (2 * variance))[:, None]
        return logits.softmax(dim=-1)


def weighted_means(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The mean of the values of each component's pixels; the value prototypes of eq. 5.4.

    Eq. 5.4 as printed has no division by the component's mass; without it, sums would grow with the size of the image.

    Args:
        values: (B, n, C) of the pixels.
        weights: (B, n, N), not negative: `posteriors`, times a mask if there is one.

    Returns:
        (B, N, C); about 0 for a component whose mass is far below 1e-6.
    """
    with torch.autocast(values.device.type, enabled=False):
        values, weights = _wide(values, weights)
        mass = weights.sum(dim=1)[..., None]
        return weights.transpose(1, 2) @ values / (mass + _EPS)


def cluster(
    pixels: torch.Tensor,
    means: torch.Tensor,
    *,
    iterations: int,
    variance: float = 0.05,
    mask: torch.Tensor | None = None,
    normalize: bool = True,
    metric: str = "distance",
    keep_empty: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Fit a mixture to each set of pixels by expectation maximization (eq. 5.2).

    Gradients go through the last iteration alone, to the pixels; the ones before it only find where to start. Call it
    under `torch.no_grad()` for means that are constants.

    Args:
        pixels: (B, n, C); n may be 0, and smaller than N.
        means: (B, N, C) to start from: of an earlier fit (warm start), or `random_means` expanded.
        iterations: of E-step and M-step, at least 1.
        variance: sigma^2.
        mask: (B, n), bool or weights that are not negative: how much a pixel counts. None: all alike.
        normalize: means have length 1; False: plain expectation maximization.
        metric: see `posteriors`.
        keep_empty: a component without pixels (mass below 1e-6; all of them, where the mask is empty) keeps its mean;
            False: its mean becomes 0, as in the authors' release.

    Returns:
        means (B, N, C); and the weights (B, n, N) of the last E-step, times the mask, which `weighted_means` takes for
        value prototypes. Both in float32 or wider, both finite.

    Raises:
        ValueError: less than one iteration; see `posteriors` too.
    """
    if iterations < 1:
        raise ValueError(f"iterations={iterations}: must be at least 1")
    with torch.autocast(pixels.device.type, enabled=False):
        pixels, means = _wide(pixels, means)
        how = {"mask": mask, "variance": variance, "metric": metric, "normalize": normalize, "keep_empty": keep_empty}
        with torch.no_grad():
            for _ in range(iterations - 1):
                means, _ = _step(pixels, means, **how)
        return _step(pixels, means.detach(), **how)


def _step(
    pixels: torch.Tensor,
    means: torch.Tensor,
    *,
    mask: torch.Tensor | None,
    variance: float,
    metric: str,
    normalize: bool,
    keep_empty: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    weights = posteriors(pixels, means, variance=variance, metric=metric)
    if mask is not None:
        weights = weights * mask.to(weights.dtype)[..., None]
    found = weighted_means(pixels, weights)
    if normalize:
        found = unit_length(found)
    if keep_empty:
        found = torch.where(weights.sum(dim=1)[..., None] > _EPS, found, means)
    return found, weights


def read(
    queries: torch.Tensor,
    means: torch.Tensor,
    values: torch.Tensor,
    *,
    variance: float = 1.0,
    metric: str = "distance",
) -> torch.Tensor:
    """Prototypical cross-attention: each query gets the values of the prototypes that it resembles (eq. 5.5, 5.6).

    Args:
        queries: (B, n, Ck) keys of the pixels that ask.
        means: (B, N, Ck) key prototypes.
        values: (B, N, Cv) value prototypes.
        variance: sigma^2 of the softmax; apart from that of `cluster`.
        metric: see `posteriors`.

    Returns:
        (B, n, Cv) in float32 or wider.
    """
    shares = posteriors(queries, means, variance=variance, metric=metric)
    with torch.autocast(values.device.type, enabled=False):
        return shares @ values.to(shares.dtype)


def aggregate(current: torch.Tensor, others: Sequence[torch.Tensor], *, scale: float = 1.0) -> torch.Tensor:
    """The frames' values at each pixel, weighted by how much they resemble the current frame's (eq. 5.7).

    The weights are a softmax over the frames of <current, frame>, the current frame being one of them.

    Args:
        current: (B, n, C) values of the current frame.
        others: each (B, n, C), what was read from another frame; may be empty.
        scale: of the dot products; 1 as printed. The current frame's logit is the squared length of its values: where
            these are long, it leaves little to the others unless the scale is small.

    Returns:
        (B, n, C) in float32 or wider.
    """
    with torch.autocast(current.device.type, enabled=False):
        frames = _wide(current, *others)
        # Frame by frame: nothing of the size of all frames' values is made.
        logits = torch.stack([(frames[0] * frame).sum(dim=-1) for frame in frames])
        weights = (scale * logits).softmax(dim=0)[..., None]
        return sum(weight * frame for weight, frame in zip(weights, frames, strict=True))


def cluster_flops(pixels: int, prototypes: int, channels: int, *, iterations: int) -> int:
    """Multiply-adds of `cluster` on one set: two products of matrices in each iteration."""
    return 2 * iterations * pixels * prototypes * channels


def read_flops(pixels: int, prototypes: int, key_channels: int, value_channels: int) -> int:
    """Multiply-adds of `read` on one set; with `key_channels` 0 those of `weighted_means`."""
    return pixels * prototypes * (key_channels + value_channels)
