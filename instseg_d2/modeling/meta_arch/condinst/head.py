"""The dynamic mask head of CondInst: every instance has the weights of a small network of its own."""

from collections.abc import Sequence

import torch
from detectron2.structures import Instances
from torch import nn

from instseg_d2.layers.dynamic_conv import DynamicLayers, add_relative_coordinates, convolve_shared, further_layers
from instseg_d2.layers.upsample import aligned_bilinear


class Controller(nn.Conv2d):
    """Predicts the parameters of each location's mask network, as `extra` output of `FCOSHead`.

    Args:
        in_channels: of the box tower.
        layers: the network whose parameters are predicted.
    """

    def __init__(self, *, in_channels: int, layers: DynamicLayers):
        super().__init__(in_channels, layers.num_parameters, kernel_size=3, padding=1)
        nn.init.normal_(self.weight, std=0.01)
        nn.init.zeros_(self.bias)


class DynamicMaskHead(nn.Module):
    """From mask features and predicted parameters to one mask an instance (CondInst, arXiv:2003.05664, Sec. 3.2).

    It has no parameters of its own, and computes in float32 under autocast too: coordinates lose their digits in 16
    bits, and products of predicted weights may overflow there.

    Args:
        layers: shape of an instance's network.
        level_sizes: pixels per level of the detector, by which relative coordinates are divided: its largest objects,
            8 strides.
        upsampling: how much finer the logits are than the mask features.
    """

    def __init__(self, *, layers: DynamicLayers, level_sizes: Sequence[float], upsampling: int = 2):
        super().__init__()
        self.layers = layers
        self.upsampling = upsampling
        self.register_buffer("level_sizes", torch.tensor(list(level_sizes), dtype=torch.float32), persistent=False)

    def parameters_of(self, instances: Sequence[Instances]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Weights and biases of the instances' networks, layer by layer, see `DynamicLayers.split`; one output each."""
        return self.layers.split(torch.cat([x.extra for x in instances]).float())

    def forward(self, features: torch.Tensor, instances: Sequence[Instances], stride: int) -> torch.Tensor:
        """Compute the mask logits of all instances.

        Args:
            features: (N, C, H, W) mask features.
            instances: per image, with `extra` (K_i, P) parameters, `locations` (K_i, 2) xy pixels and `fpn_levels`
                (K_i,).
            stride: of `features`, in pixels.

        Returns:
            (K, upsampling * H, upsampling * W) float32 logits, K instances in all; with K = 0 still part of the graph.
        """
        with torch.autocast(features.device.type, enabled=False):
            weights, biases = self.parameters_of(instances)
            coordinates = 2 * self.layers.relative_coordinates
            x = convolve_shared(features.float(), weights[0][:, :, coordinates:], [len(x) for x in instances])
            x += biases[0][:, :, None, None]
            if coordinates:
                locations = torch.cat([x.locations for x in instances])
                sizes = self.level_sizes[torch.cat([x.fpn_levels for x in instances])]
                x = add_relative_coordinates(x, weights[0][:, :, :2], locations, sizes, stride)
            logits = further_layers(x, weights[1:], biases[1:])
            return aligned_bilinear(logits, self.upsampling)[:, 0]
