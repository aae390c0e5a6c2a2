"""Graph convolution over the pixels of a region (a non-local block)."""

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.layers import get_norm
from torch import nn
from torch.nn import functional as F

_NORMS = ("BN", "LN")


class GraphConvolution(nn.Module):
    """Z = sigma(A X W_g) + X, where A is the softmax of theta(x_i) . phi(x_j) over the pixels j of the region.

    BCNet, thesis eq. 3.1 to 3.3. The thesis has three transforms (theta, phi, W_g), LayerNorm and ReLU, and no scale;
    the authors' release has a fourth transform behind the sum, BatchNorm without ReLU, and a scale of 1/sqrt(C).

    Args:
        channels: C.
        transforms: 3 (query, key, value) or 4 (and output) 1x1 convolutions without bias.
        norm: "BN" or "LN" (over channels).
        activation: ReLU behind the norm.
        scale: divide the dot products by sqrt(C).

    Raises:
        ValueError: `transforms` or `norm` is something else.
    """

    def __init__(
        self, channels: int, *, transforms: int = 4, norm: str = "BN", activation: bool = False, scale: bool = True
    ):
        super().__init__()
        if transforms not in (3, 4) or norm not in _NORMS:
            raise ValueError(f"transforms={transforms}, norm={norm!r}: must be 3 or 4, and one of {_NORMS}")
        self.query, self.key, self.value = (nn.Conv2d(channels, channels, 1, bias=False) for _ in range(3))
        self.output = nn.Conv2d(channels, channels, 1, bias=False) if transforms == 4 else nn.Identity()
        # eps as in the authors' release.
        self.norm = nn.BatchNorm2d(channels, eps=1e-4) if norm == "BN" else get_norm(norm, channels)
        self.activation = nn.ReLU() if activation else nn.Identity()
        self.scale = channels**-0.5 if scale else 1.0
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                weight_init.c2_msra_fill(layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (R, C, H, W) to the same shape; each region is a graph of its own."""
        if len(x) == 0:
            # Batch statistics of nothing would be NaN; the parameters stay part of the graph, as DDP asks for.
            return x + 0 * sum(parameter.sum() for parameter in self.parameters())
        query, key, value = (
            layer(x).flatten(2).transpose(1, 2)[:, None] for layer in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, scale=self.scale)
        mixed = mixed[:, 0].transpose(1, 2).reshape(x.shape)
        return x + self.activation(self.norm(self.output(mixed)))
