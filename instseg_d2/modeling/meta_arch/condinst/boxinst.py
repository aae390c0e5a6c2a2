"""BoxInst (arXiv:2012.02310): CondInst learns masks from boxes and from the colors of the image."""

import torch
from detectron2.structures import Instances

from instseg_d2.layers.box_maps import box_maps
from instseg_d2.layers.box_mask_losses import pairwise_loss, projection_loss

from ..image_colors import ColorNeighbors
from .losses import MaskStep, MaskSupervision


class BoxInstLoss(MaskSupervision):
    """Supervision by boxes: masks fill their box to its sides, and neighbors of one color belong together.

    Looks at no mask, whatever the ground truth holds.

    Args:
        input_format: meaning of the image channels, "BGR" or "RGB".
        projection_weight: factor on `loss_prj`.
        pairwise_weight: factor on `loss_pairwise`, after the warm-up.
        warmup_iters: training steps in which the factor of the pairwise loss grows from 0, see `iterations`.
        color_threshold: see `ColorNeighbors`.
        theta: see `ColorNeighbors`.
        neighbor_size: see `ColorNeighbors`.
        neighbor_dilation: see `ColorNeighbors`.
        bottom_pixels_removed: see `ColorNeighbors`.

    Attributes:
        iterations: int64 buffer, training steps so far; in checkpoints, so that the warm-up goes on after a resume.

    Raises:
        ValueError: unknown `input_format`, or a `color_threshold` that is not positive.
    """

    def __init__(
        self,
        *,
        input_format: str = "BGR",
        projection_weight: float = 1.0,
        pairwise_weight: float = 1.0,
        warmup_iters: int = 10000,
        color_threshold: float = 0.3,
        theta: float = 2.0,
        neighbor_size: int = 3,
        neighbor_dilation: int = 2,
        bottom_pixels_removed: int = 10,
    ):
        super().__init__()
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

    def forward(self, step: MaskStep) -> dict[str, torch.Tensor]:
        """Compute `loss_prj`, averaged over positives, and `loss_pairwise`, over all their pairs."""
        self.iterations += 1
        if len(step.logits) == 0:
            # Two sums, so that scaling one loss in place leaves the other.
            return {"loss_prj": step.logits.sum(), "loss_pairwise": step.logits.sum()}
        size = step.logits.shape[1:]
        regions = torch.cat([self.object_maps(truth, size, step.stride) for truth in step.truth])[step.gt_inds]
        edges = self.color_similarity(step) >= self.colors.threshold
        pairwise = pairwise_loss(
            step.logits,
            edges,
            regions,
            step.image_inds,
            size=self.colors.size,
            dilation=self.colors.dilation,
        )
        warmup = (self.iterations / max(self.warmup_iters, 1)).clamp(max=1)
        return {
            "loss_prj": self.projection_weight * projection_loss(step.logits.sigmoid(), regions).mean(),
            "loss_pairwise": self.pairwise_weight * warmup * pairwise,
        }

    def object_maps(self, truth: Instances, size: tuple[int, int], stride: int) -> torch.Tensor:
        """The filled boxes, see `box_maps`."""
        return box_maps(truth.gt_boxes.tensor, size, stride)

    def object_areas(self, truth: Instances) -> torch.Tensor:
        return truth.gt_boxes.area()

    def color_similarity(self, step: MaskStep) -> torch.Tensor:
        """Similarity (N, P, H, W) of the pixels of each image to their neighbors on the grid of the masks."""
        return self.colors.similarity(step.inputs, step.images, step.stride)
