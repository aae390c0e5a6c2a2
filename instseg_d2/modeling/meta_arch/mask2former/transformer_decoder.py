"""Mask2Former's transformer decoder: queries that look where their own mask is, and become classes and masks."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from instseg_d2.layers.positions import sine_positions

from .pixel_decoder import PixelFeatures


class QueryOutput(NamedTuple):
    """What the queries predict after one layer.

    Attributes:
        class_logits: (N, Q, K + 1); the last is that there is no object.
        mask_logits: (N, Q, H, W), of the size of the mask features.
    """

    class_logits: torch.Tensor
    mask_logits: torch.Tensor


class _DecoderLayer(nn.Module):
    """Masked attention to a level, attention among the queries, feedforward; each is added and normalized."""

    def __init__(self, *, channels: int, num_heads: int, feedforward: int):
        super().__init__()
        self.cross_attention = nn.MultiheadAttention(channels, num_heads, batch_first=True)
        self.cross_norm = nn.LayerNorm(channels)
        self.self_attention = nn.MultiheadAttention(channels, num_heads, batch_first=True)
        self.self_norm = nn.LayerNorm(channels)
        self.expand = nn.Linear(channels, feedforward)
        self.contract = nn.Linear(feedforward, channels)
        self.feedforward_norm = nn.LayerNorm(channels)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(
        self,
        queries: torch.Tensor,
        query_positions: torch.Tensor,
        cells: torch.Tensor,
        cell_positions: torch.Tensor,
        hidden: torch.Tensor,
    ) -> torch.Tensor:
        """Update the queries (N, Q, C).

        Args:
            queries: (N, Q, C).
            query_positions: (Q, C), added where queries are compared.
            cells: (N, S, C) of one level.
            cell_positions: (S, C), added where cells are compared.
            hidden: (N, Q, S) bool, cells that a query does not look at; no query has all hidden.
        """
        hidden = hidden.repeat_interleave(self.cross_attention.num_heads, dim=0)
        seen, _ = self.cross_attention(
            queries + query_positions, cells + cell_positions, cells, attn_mask=hidden, need_weights=False
        )
        queries = self.cross_norm(queries + seen)
        placed = queries + query_positions
        queries = self.self_norm(queries + self.self_attention(placed, placed, queries, need_weights=False)[0])
        return self.feedforward_norm(queries + self.contract(F.relu(self.expand(queries))))


class MaskedTransformerDecoder(nn.Module):
    """Masked attention of learned queries to three scales in turn (Mask2Former, arXiv:2112.01527, Sec. 3.2).

    A layer attends where the mask that the layer before it predicted is foreground, or everywhere if that mask is
    empty. Classes and masks are read from the learned queries and after every layer.

    Args:
        num_classes: K.
        num_queries: Q.
        channels: of queries and levels.
        mask_channels: of the mask features.
        num_heads: of attention.
        feedforward: width of the feedforward networks.
        num_layers: number of layers.
        num_levels: of features; layer i attends to level i modulo this.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        num_queries: int = 100,
        channels: int = 256,
        mask_channels: int = 256,
        num_heads: int = 8,
        feedforward: int = 2048,
        num_layers: int = 9,
        num_levels: int = 3,
    ):
        super().__init__()
        self.query_features = nn.Parameter(torch.randn(num_queries, channels))
        self.query_positions = nn.Parameter(torch.randn(num_queries, channels))
        self.level_embedding = nn.Parameter(torch.randn(num_levels, channels))
        self.layers = nn.ModuleList(
            _DecoderLayer(channels=channels, num_heads=num_heads, feedforward=feedforward) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(channels)
        self.classifier = nn.Linear(channels, num_classes + 1)
        self.mask_embedding = nn.Sequential(
            nn.Linear(channels, channels),
            nn.ReLU(),
            nn.Linear(channels, channels),
            nn.ReLU(),
            nn.Linear(channels, mask_channels),
        )

    def forward(self, features: PixelFeatures, *, last_only: bool = False) -> list[QueryOutput]:
        """Predict from the features of a batch.

        Args:
            features: as many levels as `num_levels`.
            last_only: give the predictions of the last layer alone, as inference asks for.

        Returns:
            predictions of the learned queries and after each layer, in this order.
        """
        # Resizing masks is linear, so the product with resized features gives the same, in a fraction of the time.
        resized = [
            F.interpolate(features.masks, size=level.shape[2:], mode="bilinear", align_corners=False).flatten(2)
            for level in features.levels
        ]
        cells, positions = self._cells(features.levels)
        queries = self.query_features.expand(len(features.masks), -1, -1)
        outputs = [] if last_only else [self._read(queries, features.masks)]
        for index, layer in enumerate(self.layers):
            level = index % len(cells)
            hidden = self._hidden(queries, resized[level])
            queries = layer(queries, self.query_positions, cells[level], positions[level], hidden)
            if not last_only:
                outputs.append(self._read(queries, features.masks))
        return outputs or [self._read(queries, features.masks)]

    def _cells(self, levels: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Per level its cells (N, S, C) and their positions (S, C)."""
        cells, positions = [], []
        for level, own in zip(levels, self.level_embedding, strict=True):
            cells.append(level.flatten(2).transpose(1, 2) + own)
            size = tuple(level.shape[2:])
            positions.append(sine_positions(size, level.shape[1], device=level.device).flatten(1).T)
        return cells, positions

    def _read(self, queries: torch.Tensor, mask_features: torch.Tensor) -> QueryOutput:
        normed = self.norm(queries)
        masks = torch.einsum("nqc,nchw->nqhw", self.mask_embedding(normed), mask_features)
        return QueryOutput(self.classifier(normed), masks)

    def _hidden(self, queries: torch.Tensor, mask_features: torch.Tensor) -> torch.Tensor:
        """(N, Q, S) bool: cells outside a query's mask, unless all of them are."""
        # Not under no_grad: autocast would keep its copies of the weights, without gradient, for `_read`.
        hidden = self.mask_embedding(self.norm(queries)) @ mask_features < 0
        return hidden & ~hidden.all(dim=2, keepdim=True)
