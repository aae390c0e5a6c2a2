"""Attention that looks at a few points of each level of a feature pyramid (Deformable DETR, arXiv:2010.04159).

N images, Q queries, S cells of all levels together, M heads, L levels, P points of a head on a level, C = M * D
channels.
"""

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F


def sample_levels(
    values: torch.Tensor, sizes: Sequence[tuple[int, int]], locations: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Sum what is found at points of all levels, each with its weight.

    Args:
        values: (N, S, M, D), the cells of all levels, level by level, each row by row.
        sizes: (height, width) of each level; S cells in all.
        locations: (N, Q, M, L, P, 2) x, y; (0, 0) is the upper left corner of a level, (1, 1) the lower right one.
            Values between cells are bilinear, those beyond the border 0.
        weights: (N, Q, M, L, P).

    Returns:
        (N, Q, M * D).
    """
    count, _, heads, channels = values.shape
    queries = locations.shape[1]
    # Heads are samples of a batch to `grid_sample`, queries rows and points columns of its output.
    maps = values.permute(0, 2, 3, 1).flatten(0, 1).split([height * width for height, width in sizes], dim=2)
    grids = (2 * locations - 1).transpose(1, 2).flatten(0, 1)
    shares = weights.transpose(1, 2).flatten(0, 1)[:, None]
    total = values.new_zeros(count * heads, channels, queries)
    for level, (one, size) in enumerate(zip(maps, sizes, strict=True)):
        found = F.grid_sample(one.unflatten(2, tuple(size)), grids[:, :, level], align_corners=False)
        # Level by level, so that no copy of the points of all levels is made.
        total = total + (found * shares[:, :, :, level]).sum(dim=3)
    return total.view(count, heads * channels, queries).transpose(1, 2)


def cell_centers(sizes: Sequence[tuple[int, int]], device: torch.device | None = None) -> torch.Tensor:
    """(S, 2) float32 x, y of the middles of all cells, as `sample_levels` takes locations."""
    centers = []
    for size in sizes:
        rows, columns = ((torch.arange(extent, device=device) + 0.5) / extent for extent in size)
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        centers.append(torch.stack([x, y], dim=2).flatten(0, 1))
    return torch.cat(centers)


class DeformableAttention(nn.Module):
    """Multi-scale deformable attention (Deformable DETR, arXiv:2010.04159, Eq. 3), of PyTorch's operators alone.

    Offsets and weights come from the query by linear layers; there are no keys.

    Args:
        channels: C.
        num_levels: L.
        num_heads: M; before training each looks into a direction of its own.
        num_points: P; before training 1 to P cells away.

    Raises:
        ValueError: `channels` cannot be divided among the heads.
    """

    def __init__(self, *, channels: int, num_levels: int, num_heads: int, num_points: int):
        super().__init__()
        if channels % num_heads:
            raise ValueError(f"channels={channels} cannot be divided among num_heads={num_heads}")
        self.num_levels = num_levels
        self.num_heads = num_heads
        self.num_points = num_points
        self.offsets = nn.Linear(channels, num_heads * num_levels * num_points * 2)
        self.weights = nn.Linear(channels, num_heads * num_levels * num_points)
        self.values = nn.Linear(channels, channels)
        self.output = nn.Linear(channels, channels)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Random values and output; offsets in rays around the reference point, equal weights."""
        for layer in (self.offsets, self.weights):
            nn.init.zeros_(layer.weight)
        for layer in (self.weights, self.values, self.output):
            nn.init.zeros_(layer.bias)
        for layer in (self.values, self.output):
            nn.init.xavier_uniform_(layer.weight)
        angles = torch.arange(self.num_heads, dtype=torch.float32) * (2 * math.pi / self.num_heads)
        rays = torch.stack([angles.cos(), angles.sin()], dim=1)
        rays = rays / rays.abs().amax(dim=1, keepdim=True)
        steps = torch.arange(1, self.num_points + 1, dtype=torch.float32)
        offsets = rays[:, None, None, :] * steps[:, None]
        self.offsets.bias.copy_(offsets.expand(-1, self.num_levels, -1, -1).flatten())

    def forward(
        self,
        queries: torch.Tensor,
        reference_points: torch.Tensor,
        features: torch.Tensor,
        sizes: Sequence[tuple[int, int]],
    ) -> torch.Tensor:
        """Attend from every query to the points around its reference point, on every level.

        Args:
            queries: (N, Q, C).
            reference_points: (Q, 2) x, y, in [0, 1] on every level.
            features: (N, S, C), the cells of all levels.
            sizes: (height, width) of each level.

        Returns:
            (N, Q, C).
        """
        count, length, _ = queries.shape
        points = (self.num_heads, self.num_levels, self.num_points)
        # Offsets are in cells, x first.
        extents = queries.new_tensor([(width, height) for height, width in sizes])
        offsets = self.offsets(queries).view(count, length, *points, 2) / extents[:, None]
        locations = reference_points[:, None, None, None, :] + offsets
        weights = self.weights(queries).view(count, length, self.num_heads, -1).softmax(dim=3)
        values = self.values(features).unflatten(2, (self.num_heads, -1))
        return self.output(sample_levels(values, sizes, locations, weights.view(count, length, *points)))
