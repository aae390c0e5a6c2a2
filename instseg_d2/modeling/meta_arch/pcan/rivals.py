"""What prototypical attention is compared with (Table 5.5): attention to all pixels of the earlier frames."""

from collections.abc import Sequence

import fvcore.nn.weight_init as weight_init
import torch
from torch import nn

from .attention import TemporalAttention, small_linear, zero_linear


def _attend(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float) -> torch.Tensor:
    """softmax(scale * Q K^T) V over the last two axes, with the map in full and in float32.

    The map is what Table 5.5 compares; torch's fused attention would not hold it.
    """
    with torch.autocast(queries.device.type, enabled=False):
        logits = (queries * scale).float() @ keys.float().transpose(-1, -2)
        return logits.softmax(dim=-1) @ values.float()


class SpaceTimeMemory(TemporalAttention):
    """Non-local attention: each pixel attends to every pixel of all frames of the clip, its own frame's too (eq. 5.1).

    The same two 1x1 convolutions and the same fusion as in `PrototypicalAttention`. The entry of a frame is its keys
    (B, n, Ck) and values (B, n, Cv).

    Args:
        channels: C.
        key_channels: Ck; None: C.
        value_channels: Cv; None: C.
        scale: of the dot products; 1 as printed.
    """

    def __init__(
        self,
        *,
        channels: int,
        key_channels: int | None = None,
        value_channels: int | None = None,
        scale: float = 1.0,
    ):
        super().__init__()
        self.scale = scale
        self.key = small_linear(channels, key_channels or channels)
        self.value = small_linear(channels, value_channels or channels)
        self.output = zero_linear(self.value.out_features, channels)

    def forward(
        self, pixels: torch.Tensor, memory: Sequence[tuple[torch.Tensor, torch.Tensor]]
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """See `TemporalAttention`."""
        entry = self.encode(pixels)
        keys, values = (torch.cat(parts, dim=1) for parts in zip(*memory, entry, strict=True))
        mixed = _attend(entry[0], keys, values, self.scale)
        return pixels + self.output(mixed).to(pixels.dtype), entry

    def encode(self, pixels: torch.Tensor, memory: Sequence = ()) -> tuple[torch.Tensor, torch.Tensor]:
        """See `TemporalAttention`."""
        return self.key(pixels), self.value(pixels)

    def flops(self, pixels: int, length: int) -> int:
        """See `TemporalAttention`."""
        channels, value_channels = self.key.in_features, self.value.out_features
        a_frame = pixels * (channels + pixels) * (self.key.out_features + value_channels)
        return length * a_frame + pixels * value_channels * channels


class TemporalSelfAttention(TemporalAttention):
    """A transformer over the pixels of all frames of the clip; the current frame's are kept.

    Layers with normalization before each part. Like its two rivals it knows no places; the entry of a frame is its
    pixels (B, n, C).

    Args:
        channels: C, multiple of `num_heads`.
        num_layers: multi-head self-attention and a feed-forward network each.
        num_heads: of the attention.
        dim_feedforward: hidden units of the network.
    """

    def __init__(self, *, channels: int, num_layers: int = 2, num_heads: int = 8, dim_feedforward: int = 512):
        super().__init__()
        self.layers = nn.ModuleList(_Layer(channels, num_heads, dim_feedforward) for _ in range(num_layers))
        self.output = zero_linear(channels, channels)

    def forward(self, pixels: torch.Tensor, memory: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """See `TemporalAttention`."""
        clip = torch.cat([*memory, pixels], dim=1)
        for layer in self.layers:
            clip = layer(clip)
        mixed = clip[:, -pixels.shape[1] :]
        return pixels + self.output(mixed).to(pixels.dtype), pixels

    def encode(self, pixels: torch.Tensor, memory: Sequence = ()) -> torch.Tensor:
        """See `TemporalAttention`."""
        return pixels

    def flops(self, pixels: int, length: int) -> int:
        """See `TemporalAttention`."""
        channels, all_pixels = self.output.in_features, length * pixels
        layer = 2 * all_pixels**2 * channels
        for part in self.layers[0].modules():
            if isinstance(part, nn.Linear):
                layer += all_pixels * part.weight.numel()
        return len(self.layers) * layer + pixels * channels**2


class _Layer(nn.Module):
    def __init__(self, channels: int, num_heads: int, dim_feedforward: int):
        super().__init__()
        self.num_heads = num_heads
        self.scale = (channels // num_heads) ** -0.5
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(2))
        self.in_projection = nn.Linear(channels, 3 * channels)
        self.out_projection = nn.Linear(channels, channels)
        self.feedforward = nn.Sequential(
            nn.Linear(channels, dim_feedforward), nn.ReLU(), nn.Linear(dim_feedforward, channels)
        )
        for layer in (self.in_projection, self.out_projection, self.feedforward[0], self.feedforward[2]):
            weight_init.c2_xavier_fill(layer)

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        """(B, m, C) to the same."""
        parts = self.in_projection(self.norms[0](clip)).chunk(3, dim=2)
        mixed = _attend(*(part.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for part in parts), self.scale)
        clip = clip + self.out_projection(mixed.transpose(1, 2).flatten(2))
        return clip + self.feedforward(self.norms[1](clip))
