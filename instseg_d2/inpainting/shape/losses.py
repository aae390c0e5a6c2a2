"""Losses of shape completion; the paper names none, these follow PCNet's self-supervision (arXiv:2004.02788)."""

import torch
from torch import nn
from torch.nn import functional as F

from instseg_d2.layers.mask_losses import dice_losses


class ShapeLoss(nn.Module):
    """Cross entropy that counts the erased region more, plus soft Dice, which keeps small objects from vanishing.

    Args:
        erased_weight: of the cross entropy where the truth is hidden or where the eraser lies; 1 elsewhere (PCNet: 5).
        bce_weight: factor on the cross entropy, the weighted sum over the number of pixels.
        dice_weight: factor on the Dice loss, the mean over the frames that have the object.
        epsilon: keeps Dice's quotient finite.
    """

    def __init__(
        self,
        *,
        erased_weight: float = 5.0,
        bce_weight: float = 1.0,
        dice_weight: float = 1.0,
        epsilon: float = 1e-5,
    ):
        super().__init__()
        self.erased_weight = erased_weight
        self.bce_weight = bce_weight
        self.dice_weight = dice_weight
        self.epsilon = epsilon

    def forward(
        self,
        logits: torch.Tensor,
        visible: torch.Tensor,
        complete: torch.Tensor,
        eraser: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Compute the losses.

        Args:
            logits: (B, T, 1, H, W), of the complete masks.
            visible: (B, T, 1, H, W) float in {0, 1}, what the network was shown.
            complete: (B, T, 1, H, W) float in {0, 1}, the truth.
            eraser: (B, T, 1, H, W) float in {0, 1}, what was laid over the object, or under it; None if unknown.

        Returns:
            `loss_shape_bce` and `loss_shape_dice`, float32 scalars.
        """
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        complete = complete.to(logits)
        erased = complete * (1 - visible.to(logits))
        if eraser is not None:
            erased = torch.maximum(erased, eraser.to(logits))
        weights = 1 + (self.erased_weight - 1) * erased
        bce = F.binary_cross_entropy_with_logits(logits, complete, weight=weights)
        masks = complete.flatten(0, 1).flatten(1)
        present = masks.any(dim=1).to(logits)
        dice = dice_losses(logits.flatten(0, 1).flatten(1), masks, epsilon=self.epsilon)
        return {
            "loss_shape_bce": self.bce_weight * bce,
            "loss_shape_dice": self.dice_weight * (dice * present).sum() / present.sum().clamp(min=1),
        }
