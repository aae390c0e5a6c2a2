"""From what a class looks like and what a teacher draws to masks to learn from (SIM, arXiv:2303.08578, Sec. 3.2, 3.3).

K = positives, M = objects. Nothing here knows the model.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch


@torch.no_grad()
def positive_weights(ious: torch.Tensor, gt_inds: torch.Tensor, count: int, *, mu: float = 5.0) -> torch.Tensor:
    """Weight of each positive among those of its object: exp(mu * IoU), divided by the sum over the object.

    Args:
        ious: (K,) of the predicted box with the object's.
        gt_inds: (K,) int64, index of the object.
        count: M.
        mu: how much the better ones count; with 0 all count the same, as in the released code.

    Returns:
        (K,) float32.
    """
    ious = ious.float()
    # Against the best of the object, so that nothing overflows, nor becomes 0 for all of them.
    best = ious.new_zeros(count).scatter_reduce_(0, gt_inds, ious, "amax")
    weights = (mu * (ious - best[gt_inds])).exp()
    return weights / weights.new_zeros(count).index_add_(0, gt_inds, weights)[gt_inds]


@torch.no_grad()
def merge_positives(
    probabilities: torch.Tensor, weights: torch.Tensor, gt_inds: torch.Tensor, count: int
) -> torch.Tensor:
    """The instance map of each object: the weighted sum of the masks of its positives.

    Args:
        probabilities: (K, H, W).
        weights: (K,), see `positive_weights`.
        gt_inds: (K,) int64, index of the object.
        count: M.

    Returns:
        (M, H, W) float32; zeros for an object without positives.
    """
    with torch.autocast(probabilities.device.type, enabled=False):
        # One matrix product: no weighted copy of all masks.
        shares = weights.new_zeros(count, len(weights), dtype=torch.float32)
        shares[gt_inds, torch.arange(len(weights), device=weights.device)] = weights.float()
        return (shares @ probabilities.float().flatten(1)).unflatten(1, probabilities.shape[1:])


class Thresholds(ABC):
    """Decides from which fused probability a pixel is foreground, and up to which background."""

    @abstractmethod
    def __call__(
        self, fused: torch.Tensor, instance: torch.Tensor, regions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Lower and upper threshold.

        Args:
            fused: (M, H, W) fused probabilities.
            instance: (M, H, W) instance maps.
            regions: (M, H, W) bool, the objects' boxes.

        Returns:
            (M,) each.
        """


@dataclass(frozen=True, kw_only=True)
class FixedThresholds(Thresholds):
    """The paper's tau_low and tau_high, whose values it does not print.

    Attributes:
        low: below, a pixel is background.
        high: above, it is foreground.

    Raises:
        ValueError: not 0 <= low <= high <= 1.
    """

    low: float
    high: float

    def __post_init__(self):
        if not 0 <= self.low <= self.high <= 1:
            raise ValueError(f"low={self.low}, high={self.high}: must be in order and in [0, 1]")

    def __call__(
        self, fused: torch.Tensor, instance: torch.Tensor, regions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return fused.new_full((len(fused),), self.low), fused.new_full((len(fused),), self.high)


@dataclass(frozen=True, kw_only=True)
class AdaptiveThresholds(Thresholds):
    """As many pixels become foreground as the instance map is sure of, within limits: the released code's rule.

    With n pixels of the box above `confident` in the instance map, the upper threshold is the n-th of the box's fused
    probabilities in descending order, counted from 0, and then clamped. Every object is ranked once, however many
    positives it has.

    Attributes:
        low: below, a pixel is background.
        high: limits of the upper threshold.
        confident: see above.

    Raises:
        ValueError: the thresholds are not in order, or not in [0, 1].
    """

    low: float = 0.4
    high: Sequence[float] = (0.7, 0.8)
    confident: float = 0.7

    def __post_init__(self):
        least, most = self.high
        object.__setattr__(self, "high", (least, most))
        if not 0 <= self.low <= least <= most <= 1:
            raise ValueError(f"low={self.low}, high={list(self.high)}: must be in order and in [0, 1]")

    def __call__(
        self, fused: torch.Tensor, instance: torch.Tensor, regions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        count = ((instance > self.confident) & regions).sum(dim=(1, 2))
        ranked = (fused * regions).flatten(1).sort(dim=1, descending=True).values
        at_rank = ranked.gather(1, count.clamp(max=ranked.shape[1] - 1)[:, None])[:, 0]
        return torch.full_like(at_rank, self.low), at_rank.clamp(*self.high)


@dataclass(frozen=True)
class PseudoMasks:
    """What M objects learn their masks from.

    Attributes:
        targets: (M, H, W) bool.
        valid: (M, H, W) bool, the pixels that count: sure ones inside of the box.
    """

    targets: torch.Tensor
    valid: torch.Tensor


@torch.no_grad()
def make_pseudo_masks(
    semantic: torch.Tensor, instance: torch.Tensor, regions: torch.Tensor, thresholds: Thresholds, *, alpha: float = 0.5
) -> PseudoMasks:
    """Fuse both maps, (1 - alpha) * semantic + alpha * instance, and cut at the thresholds.

    What lies between the thresholds, and outside of the box, does not count; the projection loss takes care of the
    latter.

    Args:
        semantic: (M, H, W) probabilities, see `Prototypes.semantic_maps`.
        instance: (M, H, W) probabilities, see `merge_positives`.
        regions: (M, H, W) bool, the objects' boxes.
        thresholds: lower and upper one.
        alpha: share of the instance map.
    """
    fused = torch.lerp(semantic, instance, alpha)
    low, high = thresholds(fused, instance, regions)
    foreground = (fused > high[:, None, None]) & regions
    background = (fused < low[:, None, None]) & regions
    return PseudoMasks(foreground, foreground | background)
