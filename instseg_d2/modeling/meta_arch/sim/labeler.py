"""Prototypes, positive weighting, fusion and thresholds as one module, for any model that has a teacher."""

from collections.abc import Sequence

import torch
from torch import nn

from .prototypes import Prototypes
from .pseudo_masks import PseudoMasks, Thresholds, make_pseudo_masks, merge_positives, positive_weights


class PseudoLabeler(nn.Module):
    """Makes the pseudo masks of a step, and lets the prototypes learn from it.

    It takes plain tensors: N images, K positives and M objects in the order of the images, on a grid of H x W. In a
    step: `merge` the teacher's masks into instance maps, call the labeler for pseudo masks, then `learn` once on every
    process.

    Args:
        prototypes: of the classes, on the features of the masks.
        thresholds: that cut the fused maps.
        alpha: share of the instance map in the fused one; the rest is the semantic map's.
        mu: how much positives with better boxes count in the instance map; 0 for not at all (released code).
        confident: pixels above this in the instance map teach the prototypes.
        score_by_teacher: pixels are assigned to prototypes by the teacher's features, while the student's are averaged
            (released code); by the student's otherwise.
        update_per_positive: a pixel teaches the prototypes once for each positive of its object (released code); once
            for each object otherwise.
    """

    def __init__(
        self,
        *,
        prototypes: Prototypes,
        thresholds: Thresholds,
        alpha: float = 0.5,
        mu: float = 5.0,
        confident: float = 0.7,
        score_by_teacher: bool = False,
        update_per_positive: bool = False,
    ):
        super().__init__()
        self.prototypes = prototypes
        self.thresholds = thresholds
        self.alpha = alpha
        self.mu = mu
        self.confident = confident
        self.score_by_teacher = score_by_teacher
        self.update_per_positive = update_per_positive

    def merge(self, probabilities: torch.Tensor, ious: torch.Tensor, gt_inds: torch.Tensor, count: int) -> torch.Tensor:
        """Instance maps (M, H, W) of `count` objects, see `positive_weights` and `merge_positives`."""
        return merge_positives(probabilities, positive_weights(ious, gt_inds, count, mu=self.mu), gt_inds, count)

    def forward(
        self,
        teacher_features: torch.Tensor,
        instance_maps: torch.Tensor,
        regions: torch.Tensor,
        classes: Sequence[torch.Tensor],
    ) -> PseudoMasks:
        """Make the pseudo masks of all objects.

        Args:
            teacher_features: (N, C, H, W).
            instance_maps: (M, H, W), from `merge`.
            regions: (M, H, W) bool, the objects' boxes.
            classes: per image (M_i,) int64.
        """
        semantic = [self.prototypes.semantic_maps(*pair) for pair in zip(teacher_features, classes, strict=True)]
        return make_pseudo_masks(torch.cat(semantic), instance_maps, regions, self.thresholds, alpha=self.alpha)

    @torch.no_grad()
    def learn(
        self,
        features: torch.Tensor,
        teacher_features: torch.Tensor,
        instance_maps: torch.Tensor,
        regions: torch.Tensor,
        classes: Sequence[torch.Tensor],
        gt_inds: Sequence[torch.Tensor],
    ) -> None:
        """Update the prototypes image by image, then on all processes together; also without any object.

        Args:
            features: (N, C, H, W), the student's.
            teacher_features: (N, C, H, W).
            instance_maps: (M, H, W).
            regions: (M, H, W) bool.
            classes: per image (M_i,) int64.
            gt_inds: per image (K_i,) int64, object of each positive within the image.
        """
        confident = ((instance_maps > self.confident) & regions).split([len(x) for x in classes])
        for i, masks in enumerate(confident):
            rows = gt_inds[i] if self.update_per_positive else torch.arange(len(masks), device=masks.device)
            scored = teacher_features[i] if self.score_by_teacher else None
            self.prototypes.update(features[i], masks[rows], classes[i][rows], scored)
        self.prototypes.synchronize()
