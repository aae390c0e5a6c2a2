"""Losses of masks against targets that hold at some pixels alone: pseudo masks, pasted masks.

K = positives; `valid` is (K, H, W) bool, or (K, 1, 1) for masks that count as a whole or not at all.
"""

import torch
from torch import nn
from torch.nn import functional as F

from instseg_d2.layers.box_mask_losses import dice_loss


class BCEDiceLoss(nn.Module):
    """Binary cross entropy plus dice loss over the valid pixels of each positive, averaged over positives (SIM, paper).

    Positives without a valid pixel are left out, of the sum and of the number it is divided by.

    Args:
        bce_weight: factor on the cross entropy, the mean over the positive's valid pixels.
        dice_weight: factor on the dice loss.
    """

    def __init__(self, *, bce_weight: float = 1.0, dice_weight: float = 1.0):
        super().__init__()
        self.bce_weight = bce_weight
        self.dice_weight = dice_weight

    def forward(self, logits: torch.Tensor, targets: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Compute the loss.

        Args:
            logits: (K, H, W) float32.
            targets: (K, H, W), bool or in [0, 1].
            valid: see above.

        Returns:
            A scalar; without positives, or valid pixels, a zero that keeps the graph.
        """
        weights = valid.expand(logits.shape).to(logits.dtype)
        targets = targets.to(logits.dtype)
        pixels = weights.sum(dim=(1, 2))
        bce = F.binary_cross_entropy_with_logits(logits, targets, weight=weights, reduction="none").sum(dim=(1, 2))
        dice = dice_loss(logits.sigmoid() * weights, targets * weights)
        losses = self.bce_weight * bce / pixels.clamp(min=1) + self.dice_weight * dice
        counted = pixels > 0
        return (losses * counted).sum() / counted.sum().clamp(min=1)


class FocalMaskLoss(nn.Module):
    """The focal loss over all valid pixels of all positives together (SIM, released code).

    Args:
        alpha: weight of foreground, 1 - alpha that of background.
        gamma: how much easy pixels are damped.
        dice_weight: factor on a dice loss over the valid pixels, averaged over all positives, those without a valid
            pixel included: 1 for what is pasted, 0 for pseudo masks.
        twice_sigmoid: the cross entropy takes probabilities for logits, as the released code does, which makes its
            gradients weak.
    """

    def __init__(
        self, *, alpha: float = 0.25, gamma: float = 2.0, dice_weight: float = 0.0, twice_sigmoid: bool = False
    ):
        super().__init__()
        self.alpha = alpha
        self.gamma = gamma
        self.dice_weight = dice_weight
        self.twice_sigmoid = twice_sigmoid

    def forward(self, logits: torch.Tensor, targets: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Compute the loss, see `BCEDiceLoss.forward`."""
        weights = valid.expand(logits.shape).to(logits.dtype)
        p, t = logits.sigmoid(), targets.to(logits.dtype)
        entropy = F.binary_cross_entropy_with_logits(
            p if self.twice_sigmoid else logits, t, weight=weights, reduction="none"
        )
        missing = p + t - 2 * p * t  # 1 - p at foreground, p at background
        losses = (1 - self.alpha + (2 * self.alpha - 1) * t) * missing**self.gamma * entropy
        loss = losses.sum() / (weights.sum() + 1)
        if self.dice_weight:
            dice = dice_loss(p * weights, t * weights)
            loss = loss + self.dice_weight * dice.sum() / max(len(dice), 1)
        return loss
