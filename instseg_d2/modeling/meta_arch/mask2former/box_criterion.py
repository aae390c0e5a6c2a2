"""Mask2Former taught by boxes and colors: BoxInst's losses on the whole masks, in place of those in points.

SIM (arXiv:2303.08578, Sec. 4.1) trains Mask2Former so, without saying how queries are matched or losses weighted. Here
they are as in MaskFreeVIS (arXiv:2303.15904), which did the same at the same time.
"""

from dataclasses import dataclass

import torch

from instseg_d2.layers.box_maps import box_maps
from instseg_d2.layers.box_mask_losses import pairwise_loss, projection_loss
from instseg_d2.layers.ranks import mean_over_ranks

from ..image_colors import ColorNeighbors
from .criterion import QueryStep, QuerySupervision, StepTargets, image_targets
from .matcher import BoxMatcher, Matches, QueryMatcher
from .transformer_decoder import QueryOutput


@dataclass(frozen=True, kw_only=True)
class BoxTargets(StepTargets):
    """What supervision by boxes compares with, on the grid (H, W) of the mask features.

    Attributes:
        regions: (M, H, W) bool, the filled boxes.
        edges: (N, P, H, W) bool, neighbors of one color, see `ColorNeighbors`.
        pairwise_factor: scalar, on the pairwise loss in this step.
    """

    regions: torch.Tensor
    edges: torch.Tensor
    pairwise_factor: torch.Tensor


class BoxLoss(QuerySupervision):
    """Supervision by boxes: masks fill their box to its sides, and neighbors of one color belong together.

    Maxima over rows and columns, and neighbors at a distance, ask for whole masks: all are compared on the grid of the
    mask features, not in points. Looks at no mask, whatever the ground truth holds.

    Args:
        matcher: see `QuerySupervision`; `BoxMatcher()` if None.
        input_format: meaning of the image channels, "BGR" or "RGB".
        projection_weight: factor on `loss_prj`.
        pairwise_weight: factor on `loss_pairwise`, after the warm-up.
        warmup_iters: training steps in which the factor of the pairwise loss grows from 0, see `iterations`.
        color_threshold: see `ColorNeighbors`.
        theta: see `ColorNeighbors`.
        neighbor_size: see `ColorNeighbors`.
        neighbor_dilation: see `ColorNeighbors`.
        bottom_pixels_removed: see `ColorNeighbors`.
        kwargs: for `QuerySupervision`.

    Attributes:
        iterations: int64 buffer, training steps so far; in checkpoints, so that the warm-up goes on after a resume.

    Raises:
        ValueError: unknown `input_format`, or a `color_threshold` that is not positive.
    """

    def __init__(
        self,
        *,
        matcher: QueryMatcher | None = None,
        input_format: str = "RGB",
        projection_weight: float = 5.0,
        pairwise_weight: float = 1.25,
        warmup_iters: int = 10000,
        color_threshold: float = 0.3,
        theta: float = 2.0,
        neighbor_size: int = 3,
        neighbor_dilation: int = 2,
        bottom_pixels_removed: int = 10,
        **kwargs,
    ):
        super().__init__(matcher=matcher or BoxMatcher(), **kwargs)
        self.projection_weight = projection_weight
        self.pairwise_weight = pairwise_weight
        self.warmup_iters = warmup_iters
        self.colors = ColorNeighbors(
            input_format=input_format,
            threshold=color_threshold,
            theta=theta,
            size=neighbor_size,
            dilation=neighbor_dilation,
            bottom_pixels_removed=bottom_pixels_removed,
        )
        self.register_buffer("iterations", torch.zeros((), dtype=torch.int64))

    def targets(self, step: QueryStep) -> BoxTargets:
        """Classes, boxes and colors; counts the step."""
        self.iterations += 1
        size = tuple(step.mask_features.shape[-2:])
        boxes = [truth.gt_boxes.tensor for truth in step.truth]
        regions = torch.cat([box_maps(own, size, step.stride) for own in boxes])
        return BoxTargets(
            images=image_targets(step, [None for _ in boxes]),
            count=mean_over_ranks(step.mask_features.new_tensor(float(len(regions)))).clamp(min=1),
            regions=regions,
            edges=self.colors.edges(step.inputs, step.images, step.stride),
            pairwise_factor=self.pairwise_weight * (self.iterations / max(self.warmup_iters, 1)).clamp(max=1),
        )

    def mask_losses(self, output: QueryOutput, matches: Matches, targets: BoxTargets) -> dict[str, torch.Tensor]:
        """Compute `loss_prj`, summed over objects and divided by their number, and `loss_pairwise`, over all pairs."""
        logits = output.mask_logits[matches.images, matches.queries].float()
        if len(logits) == 0:
            # Two sums, so that scaling one loss in place leaves the other.
            return {"loss_prj": logits.sum(), "loss_pairwise": logits.sum()}
        regions = targets.regions[matches.objects]
        pairwise = pairwise_loss(
            logits,
            targets.edges,
            regions,
            matches.images,
            size=self.colors.size,
            dilation=self.colors.dilation,
        )
        return {
            "loss_prj": self.projection_weight * projection_loss(logits.sigmoid(), regions).sum() / targets.count,
            "loss_pairwise": targets.pairwise_factor * pairwise,
        }
