"""Mask2Former's pixel decoder: features of several scales that attend to each other, and those of the masks."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.layers import Conv2d, get_norm
from torch import nn
from torch.nn import functional as F

from instseg_d2.layers.convolution import conv_block
from instseg_d2.layers.deformable_attention import DeformableAttention, cell_centers
from instseg_d2.layers.positions import sine_positions


class PixelFeatures(NamedTuple):
    """What the pixel decoder makes of the backbone's features.

    Attributes:
        masks: (N, D, H, W), of the finest level's size; the embedding of each pixel, which a mask is the product with.
        levels: (N, C, h, w) of the other levels, coarsest first, for the decoder to attend to.
    """

    masks: torch.Tensor
    levels: list[torch.Tensor]


class _EncoderLayer(nn.Module):
    """Deformable attention among the cells of all levels, then a feedforward network, each added and normalized."""

    def __init__(self, *, channels: int, feedforward: int, dropout: float, num_levels: int, heads: int, points: int):
        super().__init__()
        self.attention = DeformableAttention(
            channels=channels, num_levels=num_levels, num_heads=heads, num_points=points
        )
        self.attention_norm = nn.LayerNorm(channels)
        self.expand = nn.Linear(channels, feedforward)
        self.contract = nn.Linear(feedforward, channels)
        self.feedforward_norm = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)
        for layer in (self.expand, self.contract):
            nn.init.xavier_uniform_(layer.weight)

    def forward(
        self,
        cells: torch.Tensor,
        positions: torch.Tensor,
        reference_points: torch.Tensor,
        sizes: Sequence[tuple[int, int]],
    ) -> torch.Tensor:
        attended = self.attention(cells + positions, reference_points, cells, sizes)
        cells = self.attention_norm(cells + self.dropout(attended))
        more = self.contract(self.dropout(F.relu(self.expand(cells))))
        return self.feedforward_norm(cells + self.dropout(more))


class DeformablePixelDecoder(nn.Module):
    """MSDeformAttn pixel decoder (Mask2Former, arXiv:2112.01527, Sec. 3.2.2 and 4.1).

    All levels but the finest attend to each other by deformable attention. The finest of these is then upsampled and
    joined with the backbone's finest level, as in an FPN, and gives the features of the masks. Runs in float32 under
    autocast too, as positions of fractions of a cell ask for it.

    Args:
        in_features: names of the backbone's levels, finest first; at least two.
        in_channels: their channels.
        channels: C.
        mask_channels: D.
        num_layers: layers of attention.
        num_heads: see `DeformableAttention`.
        num_points: see `DeformableAttention`.
        feedforward: width of the feedforward networks.
        dropout: probability; the authors train with 0.
        norm: of the convolutions at the finest level, as `detectron2.layers.get_norm` takes it.

    Raises:
        ValueError: fewer than two levels, or not as many channels as levels.
    """

    def __init__(
        self,
        *,
        in_features: Sequence[str],
        in_channels: Sequence[int],
        channels: int = 256,
        mask_channels: int = 256,
        num_layers: int = 6,
        num_heads: int = 8,
        num_points: int = 4,
        feedforward: int = 1024,
        dropout: float = 0.0,
        norm: str = "GN",
    ):
        super().__init__()
        self.in_features, widths = list(in_features), list(in_channels)
        if len(widths) < 2 or len(widths) != len(self.in_features):
            raise ValueError(f"in_features={self.in_features}, in_channels={widths}: two or more of each, as many")
        self.mask_channels = mask_channels
        coarse = widths[:0:-1]
        self.projections = nn.ModuleList(_projection(width, channels) for width in coarse)
        self.level_embedding = nn.Parameter(torch.randn(len(coarse), channels))
        self.layers = nn.ModuleList(
            _EncoderLayer(
                channels=channels,
                feedforward=feedforward,
                dropout=dropout,
                num_levels=len(coarse),
                heads=num_heads,
                points=num_points,
            )
            for _ in range(num_layers)
        )
        self.lateral = Conv2d(widths[0], channels, 1, bias=not norm, norm=get_norm(norm, channels))
        self.smooth = conv_block(channels, channels, norm=norm)
        self.mask_output = Conv2d(channels, mask_channels, 1)
        for layer in (self.lateral, self.smooth, self.mask_output):
            weight_init.c2_xavier_fill(layer)

    def forward(self, features: Mapping[str, torch.Tensor]) -> PixelFeatures:
        """Map the backbone's levels (N, C_l, H_l, W_l) by name to float32 features."""
        finest, *others = (features[name] for name in self.in_features)
        with torch.autocast(finest.device.type, enabled=False):
            levels = self._attend([level.float() for level in reversed(others)])
            lateral = self.lateral(finest.float())
            upsampled = F.interpolate(levels[-1], size=lateral.shape[2:], mode="bilinear", align_corners=False)
            return PixelFeatures(self.mask_output(self.smooth(lateral + upsampled)), levels)

    def _attend(self, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Project the levels, coarsest first, to C channels, and let their cells attend to each other."""
        levels = [project(level) for project, level in zip(self.projections, features, strict=True)]
        sizes = [tuple(level.shape[2:]) for level in levels]
        cells = torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)
        positions = torch.cat(
            [
                sine_positions(size, cells.shape[2], device=cells.device).flatten(1).T + own
                for size, own in zip(sizes, self.level_embedding, strict=True)
            ]
        )
        centers = cell_centers(sizes, cells.device)
        for layer in self.layers:
            cells = layer(cells, positions, centers, sizes)
        parts = cells.split([height * width for height, width in sizes], dim=1)
        return [part.transpose(1, 2).unflatten(2, size) for part, size in zip(parts, sizes, strict=True)]


def _projection(in_channels: int, channels: int) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, channels, 1)
    nn.init.xavier_uniform_(convolution.weight)
    nn.init.zeros_(convolution.bias)
    return nn.Sequential(convolution, nn.GroupNorm(32, channels))
