"""1x1 convolutions whose weights are predicted, one small network an instance (CondInst, arXiv:2003.05664, Sec. 3.2).

K = instances, C = channels of the shared feature maps.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F


@dataclass(frozen=True, kw_only=True)
class DynamicLayers:
    """Shape of the network that each instance has for itself: `num_layers` 1x1 convolutions, ReLU between them.

    With 8 channels and 3 layers it has 169 parameters on 8 feature channels (CondInst), 233 on 16 (BoxInst).

    Attributes:
        in_channels: channels of the shared features.
        channels: channels of every layer but the last.
        num_layers: 1 or more.
        relative_coordinates: two more input channels, x and y of the instance's location as seen from each pixel.
        out_channels: of the last layer.
    """

    in_channels: int
    channels: int = 8
    num_layers: int = 3
    relative_coordinates: bool = True
    out_channels: int = 1

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the input, of each layer between, and of the output."""
        first = self.in_channels + 2 * self.relative_coordinates
        return (first, *[self.channels] * (self.num_layers - 1), self.out_channels)

    @property
    def num_parameters(self) -> int:
        """Weights and biases of one instance."""
        return sum((before + 1) * after for before, after in zip(self.widths, self.widths[1:], strict=False))

    def split(self, parameters: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Take the vector of each instance apart: the weights of all layers, then their biases.

        Args:
            parameters: (K, num_parameters).

        Returns:
            per layer (K, out, in) weights, of which relative coordinates come first, x before y; and (K, out) biases.
        """
        shapes = list(zip(self.widths[1:], self.widths, strict=False))
        sizes = [out * into for out, into in shapes] + [out for out, _ in shapes]
        parts = parameters.split(sizes, dim=1)
        weights = [part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=False)]
        return weights, list(parts[len(shapes) :])


def convolve_shared(features: torch.Tensor, weights: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
    """Apply every instance's own 1x1 convolution to the features of its image.

    As one matrix product an image: no instance gets a copy of the features.

    Args:
        features: (N, C, H, W), one map an image.
        weights: (K, out, C), instances in the order of their images.
        counts: number of instances per image, K in all.

    Returns:
        (K, out, H, W).
    """
    products = [
        own.flatten(0, 1) @ image.flatten(1) for own, image in zip(weights.split(list(counts)), features, strict=True)
    ]
    return torch.cat(products).view(*weights.shape[:2], *features.shape[2:])


def add_relative_coordinates(
    x: torch.Tensor, weights: torch.Tensor, locations: torch.Tensor, sizes: torch.Tensor, stride: int
) -> torch.Tensor:
    """Add what the two coordinate channels give in a 1x1 convolution, without making them.

    The channels are (location - pixel) / size in x and in y, the instance's location less the pixel's; so their share
    of the output is a row of numbers plus a column of numbers.

    Args:
        x: (K, out, H, W) share of the other channels; changed in place.
        weights: (K, out, 2), of x and of y.
        locations: (K, 2) xy pixels of the input image.
        sizes: (K,) pixels, what counts as distance 1.
        stride: pixels between the neighbors of the map, whose first lies at `stride // 2`.

    Returns:
        `x`.
    """
    for axis, extent in ((0, x.shape[3]), (1, x.shape[2])):
        pixels = stride // 2 + stride * torch.arange(extent, device=x.device, dtype=x.dtype)
        relative = (locations[:, axis, None] - pixels) / sizes[:, None]
        share = weights[:, :, axis, None] * relative[:, None]
        x += share[:, :, None, :] if axis == 0 else share[:, :, :, None]
    return x


def further_layers(x: torch.Tensor, weights: Sequence[torch.Tensor], biases: Sequence[torch.Tensor]) -> torch.Tensor:
    """Apply ReLU and a 1x1 convolution for each further layer, every instance with its own weights.

    Grouped convolution with a group an instance, as batched matrix products.

    Args:
        x: (K, in, H, W), output of the first layer; may be changed in place.
        weights: per layer (K, out, in).
        biases: per layer (K, out).

    Returns:
        (K, out of the last layer, H, W).
    """
    size = x.shape[2:]
    x = x.flatten(2)
    for weight, bias in zip(weights, biases, strict=True):
        x = torch.baddbmm(bias[:, :, None], weight, F.relu(x, inplace=True))
    return x.unflatten(2, size)
