"""Affinities between the pixels of a region: z-scored embeddings, losses that teach them, features mixed by them.

CPMask, thesis chapter 4, eq. 4.3 to 4.5.
"""

import torch
from torch import nn
from torch.nn import functional as F

AFFINITY_FORMS = ("rows", "pairs", "literal")


def z_scores(vectors: torch.Tensor, epsilon: float = 1e-5) -> torch.Tensor:
    """Shift and scale each vector to mean 0 and variance 1 over its entries; a constant vector becomes 0.

    The thesis gives mean and deviation a pixel's index (eq. 4.3), so they are taken over the channels of one pixel.

    Args:
        vectors: (..., C).
        epsilon: added to the variance, which is that of the C entries themselves (no correction).

    Returns:
        the same shape, float32 or wider.
    """
    vectors = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
    return F.layer_norm(vectors, vectors.shape[-1:], eps=epsilon)


def affinity_logits(queries: torch.Tensor, keys: torch.Tensor, *, scale: bool = True) -> torch.Tensor:
    """Dot products of the z-scored embeddings of all pairs of pixels (eq. 4.3), before the softmax.

    That is C times a correlation coefficient: at random 256 channels its deviation is 16, and a softmax over it picks
    single pixels. Divided by sqrt(C) the deviation is 1.

    Args:
        queries: (R, N, C), theta of each pixel.
        keys: (R, N, C), phi of each pixel.
        scale: divide by sqrt(C); the thesis prints no scale.

    Returns:
        (R, N, N), row i from the query of pixel i; float32 or wider, under autocast too.
    """
    with torch.autocast(queries.device.type, enabled=False):
        logits = z_scores(queries) @ z_scores(keys).transpose(1, 2)
    return logits * queries.shape[-1] ** -0.5 if scale else logits


def affinity_losses(logits: torch.Tensor, foreground: torch.Tensor, form: str = "rows") -> torch.Tensor:
    """How far the affinities of an object's pixels are from staying within the object (eq. 4.4), for each region.

    With n of the N pixels in the object, the softmax A, and its sums S_ff over pairs of object pixels and S_fb over
    pairs of an object and a background pixel:

    - "rows": |1 - S_ff| + |S_fb| of each object pixel's own row of A, averaged over the n rows. A row sums to 1, so
      that is twice the mean mass on the background; in [0, 2], and 2 (1 - n / N) where A is uniform.
    - "pairs": |1 - S_ff| + |S_fb| where one softmax runs over all N x N pairs; in [0, 2].
    - "literal": the same where A is normalized by row. S_ff + S_fb is n then, so the loss is n - 1 without any gradient
      once S_ff >= 1, which holds from n = sqrt(N) on where A is uniform: the equation cannot have been meant so.

    Args:
        logits: (R, N, N), see `affinity_logits`.
        foreground: (R, N) bool or 0 and 1, the pixels of the object.
        form: of `AFFINITY_FORMS`.

    Returns:
        (R,), float32 or wider; 0 for regions without an object pixel, or without another.

    Raises:
        ValueError: unknown form.
    """
    if form not in AFFINITY_FORMS:
        raise ValueError(f"form={form!r}: must be one of {AFFINITY_FORMS}")
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    inside = foreground.to(logits)
    softmax = (logits.flatten(1) if form == "pairs" else logits).softmax(dim=-1).reshape(logits.shape)
    with torch.autocast(logits.device.type, enabled=False):
        within = (softmax @ inside[:, :, None])[:, :, 0]
        beyond = (softmax @ (1 - inside)[:, :, None])[:, :, 0]
    count = inside.sum(dim=1)
    if form == "rows":
        losses = 2 * (beyond * inside).sum(dim=1) / count.clamp(min=1)
    else:
        losses = (1 - (within * inside).sum(dim=1)).abs() + (beyond * inside).sum(dim=1)
    return torch.where((count > 0) & (count < inside.shape[1]), losses, 0 * losses)


def affinity_loss(logits: torch.Tensor, foreground: torch.Tensor, form: str = "rows") -> torch.Tensor:
    """Mean of `affinity_losses` over the regions that have object pixels and others; a zero with a graph if none has.

    Args and errors are those of `affinity_losses`.
    """
    losses = affinity_losses(logits, foreground, form)
    count = foreground.sum(dim=1)
    usable = (count > 0) & (count < foreground.shape[1])
    return losses.sum() / usable.sum().clamp(min=1)


class AffinityParsing(nn.Module):
    """X + A g(X): each pixel of a region also gets what its affinities collect over all pixels (eq. 4.5, 4.6).

    A is the softmax over keys of `affinity_logits` of two embeddings of X, whatever form its loss has: a softmax over
    all pairs would leave each row a sum of about 1 / N. theta, phi and g are linear, without bias.

    Args:
        channels: of X.
        embed_dim: channels of both embeddings; as many as X where it is None.
        scale: see `affinity_logits`.
        value_std: deviation of the initial weights of g. It is small, so that training starts near X.
    """

    def __init__(self, channels: int, *, embed_dim: int | None = None, scale: bool = True, value_std: float = 0.01):
        super().__init__()
        embed_dim = channels if embed_dim is None else embed_dim
        self.theta, self.phi = (nn.Conv2d(channels, embed_dim, 1, bias=False) for _ in range(2))
        self.g = nn.Conv2d(channels, channels, 1, bias=False)
        self.scale = scale
        for layer in (self.theta, self.phi):
            nn.init.normal_(layer.weight, std=channels**-0.5)
        nn.init.normal_(self.g.weight, std=value_std)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mix the features of each region.

        Args:
            x: (R, C, H, W); R may be 0.

        Returns:
            (R, C, H, W) features, and the (R, HW, HW) logits of A, pixels row by row.
        """
        queries, keys, values = (layer(x).flatten(2).transpose(1, 2) for layer in (self.theta, self.phi, self.g))
        logits = affinity_logits(queries, keys, scale=self.scale)
        with torch.autocast(x.device.type, enabled=False):
            mixed = logits.softmax(dim=-1) @ values.to(logits)
        return x + mixed.transpose(1, 2).reshape(x.shape).to(x), logits
