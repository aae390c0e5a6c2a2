"""Losses of flow completion (Sec. 5.4.2): regression, flow gradients, Laplacian pyramid, warping, smoothness.

The paper names the first four and the guidance by the contour; it gives neither weights nor formulas.
"""

import torch
from torch import nn
from torch.nn import functional as F

from ..regions import contour_band, region_mean
from .warp import cycle_error, warp


def differences(maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Forward differences of (..., H, W) along x, (..., H, W - 1), and along y, (..., H - 1, W)."""
    return maps[..., :, 1:] - maps[..., :, :-1], maps[..., 1:, :] - maps[..., :-1, :]


def pairs_inside(region: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each forward difference, whether both of its pixels lie in the region (..., H, W): as `differences`."""
    return region[..., :, 1:] * region[..., :, :-1], region[..., 1:, :] * region[..., :-1, :]


def difference_mean(maps: torch.Tensor, region: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Mean size of the forward differences of (N, C, H, W) maps inside regions (N, 1, H, W).

    Args:
        maps: (N, C, H, W).
        region: (N, 1, H, W) float in {0, 1}; both pixels of a difference must lie inside.
        weights: (N, 1, H, W) images; if given, a difference counts exp(-|difference of the image|).

    Returns:
        A scalar, the mean along x plus the mean along y.
    """
    total = maps.new_zeros(())
    images = (None, None) if weights is None else differences(weights)
    for steps, inside, image in zip(differences(maps), pairs_inside(region), images, strict=True):
        damped = steps.abs() if image is None else steps.abs() * torch.exp(-image.abs().mean(dim=1, keepdim=True))
        total = total + region_mean(damped, inside)
    return total


def laplacian_pyramid(maps: torch.Tensor, levels: int = 5) -> list[torch.Tensor]:
    """Split maps into bands of detail: each level is what a 5x5 binomial blur takes away, the last what is left.

    Args:
        maps: (N, C, H, W).
        levels: how many there are, the blurred rest included; each is half as large as the one before.

    Returns:
        `levels` maps, finest first.
    """
    channels = maps.shape[1]
    line = maps.new_tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    kernel = (line[:, None] * line).expand(channels, 1, 5, 5)
    bands = []
    for _ in range(levels - 1):
        blurred = F.conv2d(F.pad(maps, (2, 2, 2, 2), mode="replicate"), kernel, groups=channels)
        bands.append(maps - blurred)
        maps = blurred[..., ::2, ::2]
    return [*bands, maps]


class FlowLoss(nn.Module):
    """All losses of a completed clip, in pixels, summed over both directions; a term of weight 0 is left out.

    Args:
        hole_weight: L1 in the hole.
        valid_weight: L1 in the visible part.
        gradient_weight: L1 between forward differences of result and truth inside the complete mask. Under "image
            gradient loss" one may also understand smoothness that image edges damp: `edge_aware`.
        laplacian_weight: L1 between the Laplacian pyramids of result and truth, each level's mean over all pixels,
            levels alike. The result is pasted onto the truth: what lies outside of the complete mask is not learnt and
            must not pull at it through the blur. Bojanowski et al. (arXiv:1707.05776) weigh sums by 4^level, which
            is the same as equal weights on means.
        laplacian_levels: of the pyramids.
        warp_weight: L1 between a clean frame and its clean neighbour pulled along the result, in [0, 1], inside the
            complete mask where the true flow is consistent.
        cycle_threshold: pixels of cycle error from which on the true flow is not.
        smoothness_weight: guidance by the contour: the mean size of the result's forward differences inside the
            complete mask without the band along its outline.
        contour_width: of that band, pixels.
        edge_aware: the smoothness counts exp(-|difference of the clean frame|), so that it may change at edges.
    """

    def __init__(
        self,
        *,
        hole_weight: float = 1.0,
        valid_weight: float = 1.0,
        gradient_weight: float = 1.0,
        laplacian_weight: float = 0.5,
        laplacian_levels: int = 5,
        warp_weight: float = 1.0,
        cycle_threshold: float = 5.0,
        smoothness_weight: float = 0.1,
        contour_width: int = 3,
        edge_aware: bool = False,
    ):
        super().__init__()
        self.weights = {
            "hole": hole_weight,
            "valid": valid_weight,
            "gradient": gradient_weight,
            "laplacian": laplacian_weight,
            "warp": warp_weight,
            "smoothness": smoothness_weight,
        }
        self.laplacian_levels = laplacian_levels
        self.cycle_threshold = cycle_threshold
        self.contour_width = contour_width
        self.edge_aware = edge_aware

    def forward(
        self,
        flows: tuple[torch.Tensor, torch.Tensor],
        true_flows: tuple[torch.Tensor, torch.Tensor],
        clean_frames: torch.Tensor,
        visible: torch.Tensor,
        complete: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """Compute the losses.

        Args:
            flows: completed forward and backward flow, (B, T - 1, 2, H, W) pixels each.
            true_flows: those of the clean clip, of the same shapes.
            clean_frames: (B, T, 3, H, W) in [-1, 1], without the occluder.
            visible: (B, T, 1, H, W) float in {0, 1}.
            complete: (B, T, 1, H, W) float in {0, 1}.

        Returns:
            `loss_flow_<term>`, float32 scalars: hole, valid, gradient, laplacian, warp, smoothness.
        """
        with torch.autocast(clean_frames.device.type, enabled=False):
            frames = (clean_frames + 1) / 2
            (there, back), (true_there, true_back) = flows, true_flows
            directions = (
                (there, true_there, true_back, frames[:, :-1], frames[:, 1:], visible[:, :-1], complete[:, :-1]),
                (back, true_back, true_there, frames[:, 1:], frames[:, :-1], visible[:, 1:], complete[:, 1:]),
            )
            first, second = (self._direction(*(part.float().flatten(0, 1) for part in parts)) for parts in directions)
        return {f"loss_flow_{name}": self.weights[name] * (first[name] + second[name]) for name in first}

    def _direction(
        self,
        flow: torch.Tensor,
        truth: torch.Tensor,
        reverse: torch.Tensor,
        source: torch.Tensor,
        target: torch.Tensor,
        visible: torch.Tensor,
        complete: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """Unweighted terms of N flows (N, 2, H, W), frames (N, 3, H, W) in [0, 1] and masks (N, 1, H, W)."""
        error = flow - truth
        terms = {
            "hole": lambda: region_mean(error.abs(), complete * (1 - visible)),
            "valid": lambda: region_mean(error.abs(), complete * visible),
            "gradient": lambda: difference_mean(error, complete),
            "laplacian": lambda: self._laplacian(error * complete),
            "warp": lambda: self._warp(flow, truth, reverse, source, target, complete),
            "smoothness": lambda: difference_mean(
                flow,
                complete * (1 - contour_band(complete, self.contour_width)),
                source if self.edge_aware else None,
            ),
        }
        return {name: term() for name, term in terms.items() if self.weights[name]}

    def _laplacian(self, error: torch.Tensor) -> torch.Tensor:
        # The pyramid is linear: that of the difference is the difference of the pyramids.
        bands = laplacian_pyramid(error, self.laplacian_levels)
        return sum(band.abs().sum() / max(band.numel(), 1) for band in bands) / len(bands)

    def _warp(
        self,
        flow: torch.Tensor,
        truth: torch.Tensor,
        reverse: torch.Tensor,
        source: torch.Tensor,
        target: torch.Tensor,
        complete: torch.Tensor,
    ) -> torch.Tensor:
        consistent = (cycle_error(truth, reverse) < self.cycle_threshold).to(complete)
        return region_mean((source - warp(target, flow)).abs(), complete * consistent)
