"""Attention from the pixels of a frame to those of earlier ones, by prototypes (thesis 5.2.2 and 5.2.3)."""

import abc
from collections.abc import Sequence
from typing import Any, NamedTuple

import fvcore.nn.weight_init as weight_init
import torch
from torch import nn

from instseg_d2.layers.prototypes import (
    aggregate,
    cluster,
    cluster_flops,
    posteriors,
    random_means,
    read,
    read_flops,
    unit_length,
    weighted_means,
)
from instseg_d2.layers.ranks import mean_over_ranks


class TemporalAttention(nn.Module, abc.ABC):
    """What `FrameAttention` asks of the module that mixes earlier frames into the current one.

    Pixels come as (B, n, C), without their places. What the module keeps of a frame, its entry, is its own affair; the
    memory is a list of such entries of the same B videos, oldest first.
    """

    @abc.abstractmethod
    def forward(self, pixels: torch.Tensor, memory: Sequence[Any]) -> tuple[torch.Tensor, Any]:
        """Mix the memory into a frame.

        Args:
            pixels: (B, n, C) of the current frame.
            memory: entries of earlier frames; may be empty.

        Returns:
            (B, n, C), and the entry of this frame.
        """

    @abc.abstractmethod
    def encode(self, pixels: torch.Tensor, memory: Sequence[Any] = ()) -> Any:
        """The entry of a frame without the rest of `forward`; for reference frames in training."""

    @abc.abstractmethod
    def flops(self, pixels: int, length: int) -> int:
        """Multiply-adds of products of matrices for a clip: an entry of each frame, and the result for the last one.

        Args:
            pixels: n of each frame.
            length: frames, the current one included.
        """


def small_linear(inputs: int, outputs: int) -> nn.Linear:
    """A 1x1 convolution over pixels; its outputs are short at first: no softmax of their products is one-hot."""
    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)
    return layer


def zero_linear(inputs: int, outputs: int) -> nn.Linear:
    """A 1x1 convolution that gives 0 until it is trained: what is added to a detector leaves it as it is at first."""
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class Prototypes(NamedTuple):
    """What is kept of a frame: (B, N, Ck) means of its keys, and (B, N, Cv) values, float32."""

    means: torch.Tensor
    values: torch.Tensor


class PrototypicalAttention(TemporalAttention):
    """Each frame is condensed to N prototypes; the current frame reads from each frame's, and weighs what it read.

    Eq. 5.2 to 5.7: two parallel 1x1 convolutions give keys and values; each frame's keys are clustered on their own; a
    pixel reads every memory frame's value prototypes by the distance of its key, and sums these and its own value,
    weighted by how much they resemble the latter. How the sum is fused with the current frame is not printed: here a
    1x1 convolution of it, which starts at 0, is added to the pixels.

    In training the last iteration of the clustering passes gradients to the keys; and the means that it starts from are
    a moving average of what it found, equal on all processes, frozen in evaluation. `forward` moves it, so in training
    all processes must call `forward` equally often; `encode` leaves it.

    Args:
        channels: C.
        key_channels: Ck; None: C.
        value_channels: Cv; None: C.
        num_prototypes: N.
        iterations: of the clustering.
        variance: sigma^2 of the clustering.
        read_variance: sigma^2 of reading.
        normalize_means: the means of a cluster have length 1, as in the authors' release.
        normalize_keys: keys too.
        temporal_scale: of the dot products of eq. 5.7; 1 as printed.
        warm_start: the clustering starts from the means of the last frame in the memory, if there is one.
        momentum: share of the means to start from that stays in a step of training; 1: they stay random.

    Attributes:
        means: (N, Ck) float32 buffer, the means to start from.
    """

    def __init__(
        self,
        *,
        channels: int,
        key_channels: int | None = None,
        value_channels: int | None = None,
        num_prototypes: int = 128,
        iterations: int = 6,
        variance: float = 0.05,
        read_variance: float = 1.0,
        normalize_means: bool = True,
        normalize_keys: bool = False,
        temporal_scale: float = 1.0,
        warm_start: bool = False,
        momentum: float = 0.95,
    ):
        super().__init__()
        self.num_prototypes = num_prototypes
        self.iterations = iterations
        self.variance = variance
        self.read_variance = read_variance
        self.normalize_means = normalize_means
        self.normalize_keys = normalize_keys
        self.temporal_scale = temporal_scale
        self.warm_start = warm_start
        self.momentum = momentum
        self.key = nn.Linear(channels, key_channels or channels)
        weight_init.c2_xavier_fill(self.key)
        self.value = small_linear(channels, value_channels or channels)
        self.output = zero_linear(self.value.out_features, channels)
        self.register_buffer("means", random_means(num_prototypes, self.key.out_features))

    def forward(self, pixels: torch.Tensor, memory: Sequence[Prototypes]) -> tuple[torch.Tensor, Prototypes]:
        """See `TemporalAttention`."""
        keys, values = self._keys(pixels), self.value(pixels)
        entry = self._condense(keys, values, memory)
        if self.training:
            self._update_means(entry.means)
        found = [read(keys, frame.means, frame.values, variance=self.read_variance) for frame in memory]
        mixed = aggregate(values, found, scale=self.temporal_scale)
        return pixels + self.output(mixed).to(pixels.dtype), entry

    def encode(self, pixels: torch.Tensor, memory: Sequence[Prototypes] = ()) -> Prototypes:
        """See `TemporalAttention`."""
        return self._condense(self._keys(pixels), self.value(pixels), memory)

    def shares(self, pixels: torch.Tensor, entry: Prototypes) -> torch.Tensor:
        """Which prototypes of a frame the pixels (B, n, C) of another attend to: (B, n, N), sums to 1 over N."""
        return posteriors(self._keys(pixels), entry.means, variance=self.read_variance)

    def flops(self, pixels: int, length: int) -> int:
        """See `TemporalAttention`; each frame is clustered, all but the last are read from."""
        channels, key_channels = self.key.in_features, self.key.out_features
        value_channels, count = self.value.out_features, self.num_prototypes
        a_frame = pixels * channels * (key_channels + value_channels)
        a_frame += cluster_flops(pixels, count, key_channels, iterations=self.iterations)
        a_frame += read_flops(pixels, count, 0, value_channels)
        reading = read_flops(pixels, count, key_channels, value_channels)
        return length * a_frame + (length - 1) * reading + pixels * value_channels * channels

    def _keys(self, pixels: torch.Tensor) -> torch.Tensor:
        keys = self.key(pixels)
        return unit_length(keys.float()) if self.normalize_keys else keys

    def _condense(self, keys: torch.Tensor, values: torch.Tensor, memory: Sequence[Prototypes]) -> Prototypes:
        start = memory[-1].means if self.warm_start and memory else self.means.expand(len(keys), -1, -1)
        means, weights = cluster(
            keys, start, iterations=self.iterations, variance=self.variance, normalize=self.normalize_means
        )
        return Prototypes(means, weighted_means(values, weights))

    @torch.no_grad()
    def _update_means(self, found: torch.Tensor) -> None:
        means = self.means.lerp(mean_over_ranks(found.mean(dim=0)), 1 - self.momentum)
        self.means.copy_(unit_length(means) if self.normalize_means else means)


class FilteredFrame(NamedTuple):
    """What the release keeps: (B, n, C) moving average of the pixels, and (B, N, C) moving average of the means."""

    pixels: torch.Tensor
    means: torch.Tensor


class PrototypicalFilter(TemporalAttention):
    """The frame level of the authors' release: testing only, nothing is trained, and one averaged frame as memory.

    The averaged frame's pixels are clustered by dot products; the current pixels, rebuilt from the means, are blended
    with themselves, also in the first frame. In training pixels pass unchanged.

    Args:
        channels: C.
        num_prototypes: N.
        iterations: of the clustering.
        variance: sigma^2 of the clustering; that of reading is 1.
        keep: share of the current pixels in the result; the rest is rebuilt.
        memory_rate: share of the result in the averaged frame.
        means_rate: share of the new means in the averaged ones, which are not normalized.

    Attributes:
        means: (N, C) float32 buffer, the means to start from, never trained.
    """

    def __init__(
        self,
        *,
        channels: int,
        num_prototypes: int = 30,
        iterations: int = 3,
        variance: float = 0.05,
        keep: float = 0.75,
        memory_rate: float = 0.75,
        means_rate: float = 0.5,
    ):
        super().__init__()
        self.iterations = iterations
        self.variance = variance
        self.keep = keep
        self.memory_rate = memory_rate
        self.means_rate = means_rate
        self.register_buffer("means", random_means(num_prototypes, channels))

    def forward(self, pixels: torch.Tensor, memory: Sequence[FilteredFrame]) -> tuple[torch.Tensor, Any]:
        """See `TemporalAttention`; in training the entry is None."""
        if self.training:
            return pixels, None
        before = self._last(pixels, memory)
        means = self._cluster(before)
        rebuilt = read(pixels, means, means, metric="dot")
        result = (self.keep * pixels + (1 - self.keep) * rebuilt).to(pixels.dtype)
        return result, FilteredFrame(
            torch.lerp(before.pixels, result, self.memory_rate), torch.lerp(before.means, means, self.means_rate)
        )

    def encode(self, pixels: torch.Tensor, memory: Sequence[FilteredFrame] = ()) -> FilteredFrame | None:
        """See `TemporalAttention`; the entry depends on the result."""
        return self(pixels, memory)[1]

    def shares(self, pixels: torch.Tensor, entry: FilteredFrame) -> torch.Tensor:
        """Which averaged prototypes the pixels (B, n, C) attend to: (B, n, N), sums to 1 over N."""
        return posteriors(pixels, entry.means, variance=1.0, metric="dot")

    def flops(self, pixels: int, length: int) -> int:
        """See `TemporalAttention`; each frame is clustered and read from."""
        count, channels = self.means.shape
        a_frame = cluster_flops(pixels, count, channels, iterations=self.iterations)
        return length * (a_frame + read_flops(pixels, count, channels, channels))

    def _last(self, pixels: torch.Tensor, memory: Sequence[FilteredFrame]) -> FilteredFrame:
        """What was kept last; an average of frames of another size starts anew, its means go on."""
        means = self.means.expand(len(pixels), -1, -1)
        if memory:
            means = memory[-1].means
            if memory[-1].pixels.shape == pixels.shape:
                return memory[-1]
        return FilteredFrame(pixels, means)

    @torch.no_grad()
    def _cluster(self, frame: FilteredFrame) -> torch.Tensor:
        means, _ = cluster(
            frame.pixels,
            frame.means,
            iterations=self.iterations,
            variance=self.variance,
            metric="dot",
            keep_empty=False,
        )
        return means
