"""Losses of the generator beside the adversarial ones (not stated in the paper; STTN's by default)."""

import torch
from torch import nn

from ..regions import enlarged_boxes, region_mean

REGIONS = ("frame", "box")


class ReconstructionLoss(nn.Module):
    """L1 in the hole and outside of it, each over its own number of pixels (STTN, arXiv:2007.10247).

    Args:
        hole_weight: of the hole.
        valid_weight: of what lies outside of it.
        valid_region: "frame", all of it, or "box", inside the enlarged box around the object alone: holes are a few
            percent of a frame.
        box_scale: how much that box is enlarged.

    Raises:
        ValueError: `valid_region` is none of these.
    """

    def __init__(
        self,
        *,
        hole_weight: float = 1.0,
        valid_weight: float = 1.0,
        valid_region: str = "frame",
        box_scale: float = 1.5,
    ):
        super().__init__()
        if valid_region not in REGIONS:
            raise ValueError(f"valid_region={valid_region!r}: one of {', '.join(REGIONS)}")
        self.hole_weight = hole_weight
        self.valid_weight = valid_weight
        self.valid_region = valid_region
        self.box_scale = box_scale

    def forward(
        self, prediction: torch.Tensor, clean_frames: torch.Tensor, hole: torch.Tensor, complete: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Compute the losses.

        Args:
            prediction: (B, T, 3, H, W) in [-1, 1], not composed.
            clean_frames: (B, T, 3, H, W) in [-1, 1], the truth.
            hole: (B, T, 1, H, W) float in {0, 1}, what is left of it after propagation.
            complete: (B, T, 1, H, W) float in {0, 1}.

        Returns:
            `loss_inpaint_hole` and `loss_inpaint_valid`, float32 scalars.
        """
        error = (prediction.float() - clean_frames.float()).abs()
        valid = 1 - hole.float()
        if self.valid_region == "box":
            valid = valid * enlarged_boxes(complete.float(), self.box_scale)
        return {
            "loss_inpaint_hole": self.hole_weight * region_mean(error, hole),
            "loss_inpaint_valid": self.valid_weight * region_mean(error, valid),
        }
