"""Mask R-CNN's head (arXiv:1703.06870)."""

from collections.abc import Sequence

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.layers import Conv2d, ConvTranspose2d, ShapeSpec
from detectron2.structures import Instances
from torch import nn
from torch.nn import functional as F

from instseg_d2.layers.convolution import Norm, conv_block

from .base import MaskHead


class MaskRCNNHead(MaskHead):
    """3x3 convolutions, a 2x2 transposed convolution of stride 2, and a 1x1 predictor.

    Weights, losses and masks are those of detectron2's `MaskRCNNConvUpsampleHead`: its checkpoints load, and the same
    seed gives the same initial weights. Beyond it, hidden masks (`gt_has_mask`) are left out of the loss.

    Args:
        input_shape: its channels are those of the pooled features.
        num_classes: mask channels; 1 for class-agnostic masks.
        conv_dims: output channels of each 3x3 convolution, then of the transposed one.
        conv_norm: norm behind the 3x3 convolutions, as `detectron2.layers.get_norm` takes it; "" for none.
        loss_weight: factor on `loss_mask`.

    Raises:
        ValueError: `conv_dims` is empty.
    """

    def __init__(
        self,
        *,
        input_shape: ShapeSpec,
        num_classes: int,
        conv_dims: Sequence[int],
        conv_norm: Norm = "",
        loss_weight: float = 1.0,
    ):
        super().__init__(loss_weight=loss_weight)
        widths = [input_shape.channels, *conv_dims]
        if len(widths) < 2:
            raise ValueError("conv_dims is empty; its last number is the width of the transposed convolution")
        self.num_convs = len(widths) - 2
        for number in range(1, self.num_convs + 1):
            self.add_module(f"mask_fcn{number}", conv_block(widths[number - 1], widths[number], norm=conv_norm))
        self.deconv = ConvTranspose2d(widths[-2], widths[-1], kernel_size=2, stride=2)
        self.predictor = Conv2d(widths[-1], num_classes, kernel_size=1)
        # In one sweep, after all layers exist: the random numbers fall where detectron2's head takes them.
        for layer in (*self.convolutions(), self.deconv):
            weight_init.c2_msra_fill(layer)
        # Small, so that all probabilities start near one half.
        nn.init.normal_(self.predictor.weight, std=0.001)
        nn.init.zeros_(self.predictor.bias)

    def convolutions(self) -> list[nn.Module]:
        """The 3x3 convolutions with their norms and ReLUs, in order."""
        return [self.get_submodule(f"mask_fcn{number}") for number in range(1, self.num_convs + 1)]

    def layers(self, x: torch.Tensor, instances: list[Instances]) -> tuple[torch.Tensor, torch.Tensor]:
        """See `MaskHead.layers`: from (R, C, H, W) features to features and logits of side 2H."""
        for convolution in self.convolutions():
            x = convolution(x)
        x = F.relu(self.deconv(x))
        return x, self.predictor(x)
