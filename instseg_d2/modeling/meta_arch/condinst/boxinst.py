"""BoxInst (arXiv:2012.02310): CondInst learns masks from boxes and from the colors of the image."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.structures import Instances
from torch.nn import functional as F

from instseg_d2.layers.box_maps import box_maps
from instseg_d2.layers.box_mask_losses import pairwise_loss, projection_loss
from instseg_d2.layers.lab_color import rgb_to_lab
from instseg_d2.layers.neighbors import neighbor_similarity

from .losses import MaskStep, MaskSupervision

INPUT_FORMATS = ("BGR", "RGB")


class BoxInstLoss(MaskSupervision):
    """Supervision by boxes: masks fill their box to its sides, and neighbors of one color belong together.

    Looks at no mask, whatever the ground truth holds.

    Args:
        input_format: meaning of the image channels, "BGR" or "RGB".
        projection_weight: factor on `loss_prj`.
        pairwise_weight: factor on `loss_pairwise`, after the warm-up.
        warmup_iters: training steps in which the factor of the pairwise loss grows from 0, see `iterations`.
        color_threshold: similarity above which neighbors count as of one color, tau of the paper: 0.3 in BoxInst's
            configs, 0.1 in SIM's.
        theta: see `neighbor_similarity`.
        neighbor_size: side of the window of neighbors.
        neighbor_dilation: distance of neighbors on the grid of the masks.
        bottom_pixels_removed: height of the strip at the bottom of the original image whose colors are not used; boxes
            of COCO are bad there.

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
        if input_format not in INPUT_FORMATS:
            raise ValueError(f"input_format='{input_format}': must be one of {INPUT_FORMATS}")
        if color_threshold <= 0:
            raise ValueError(f"color_threshold={color_threshold}: must be positive, as pixels off the image have 0")
        self.input_format = input_format
        self.projection_weight = projection_weight
        self.pairwise_weight = pairwise_weight
        self.warmup_iters = warmup_iters
        self.color_threshold = color_threshold
        self.theta = theta
        self.neighbor_size = neighbor_size
        self.neighbor_dilation = neighbor_dilation
        self.bottom_pixels_removed = bottom_pixels_removed
        self.register_buffer("iterations", torch.zeros((), dtype=torch.int64))

    def forward(self, step: MaskStep) -> dict[str, torch.Tensor]:
        """Compute `loss_prj`, averaged over positives, and `loss_pairwise`, over all their pairs."""
        self.iterations += 1
        if len(step.logits) == 0:
            # Two sums, so that scaling one loss in place leaves the other.
            return {"loss_prj": step.logits.sum(), "loss_pairwise": step.logits.sum()}
        size = step.logits.shape[1:]
        regions = torch.cat([self.object_maps(truth, size, step.stride) for truth in step.truth])[step.gt_inds]
        edges = self.color_similarity(step) >= self.color_threshold
        pairwise = pairwise_loss(
            step.logits,
            edges,
            regions,
            step.image_inds,
            size=self.neighbor_size,
            dilation=self.neighbor_dilation,
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

    @torch.no_grad()
    def color_similarity(self, step: MaskStep) -> torch.Tensor:
        """Similarity of the pixels of each image to their neighbors on the grid of the masks, in L*a*b*.

        Returns:
            (N, P, H, W), see `neighbor_similarity`.
        """
        pixels = padded_pixels(step)
        # Whole numbers per color, as the release rounds: down.
        coarse = F.avg_pool2d(pixels, step.stride).floor()
        lab = rgb_to_lab(coarse.flip(1) if self.input_format == "BGR" else coarse)
        valid = torch.stack(
            [
                self._valid(item, size, lab, step.stride)
                for item, size in zip(step.inputs, step.images.image_sizes, strict=True)
            ]
        )
        return neighbor_similarity(
            lab, valid, size=self.neighbor_size, dilation=self.neighbor_dilation, theta=self.theta
        )

    def _valid(
        self, item: Mapping[str, Any], image_size: Sequence[int], maps: torch.Tensor, stride: int
    ) -> torch.Tensor:
        """(H, W) bool: points of the grid that lie in the image and above the strip at its bottom."""
        height, width = image_size
        removed = int(self.bottom_pixels_removed * height / item.get("height", height))
        rows, columns = (stride // 2 + stride * torch.arange(n, device=maps.device) for n in maps.shape[-2:])
        return (rows < height - removed)[:, None] & (columns < width)


def padded_pixels(step: MaskStep) -> torch.Tensor:
    """The images as the loader gave them, (N, 3, H, W) float32 0 to 255, padded with zeros like the batch."""
    pixels = torch.zeros_like(step.images.tensor, dtype=torch.float32)
    for target, item in zip(pixels, step.inputs, strict=True):
        height, width = item["image"].shape[-2:]
        target[:, :height, :width] = item["image"]
    return pixels
