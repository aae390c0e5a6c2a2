"""The network that redraws the mask of an object from what earlier frames showed of it."""

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.layers import Conv2d
from torch import nn

from instseg_d2.modeling.mask_heads.parts import Upsampling, convolutions, predictor


class TemporalSegmentation(nn.Module):
    """PCAN's Temporal Segmentation Module (thesis Fig. 5.3, sizes of the authors' release).

    Features, attention maps and the first mask go through 3x3 convolutions, a 2x2 transposed convolution of stride 2,
    and a 1x1 predictor. The first convolution has no ReLU: what is known of the reference is added to its output.

    Args:
        in_channels: C, of the features.
        num_maps: A, how many maps come with them.
        with_context: also take the mean feature of the object in the reference, as the release does.
        conv_dim: width.
        num_convs: 3x3 convolutions in all, at least 1.
    """

    # Side of the masks over that of the features.
    scale = 2

    def __init__(
        self, *, in_channels: int, num_maps: int, with_context: bool = False, conv_dim: int = 256, num_convs: int = 4
    ):
        super().__init__()
        self.fuse = Conv2d(in_channels + num_maps, conv_dim, kernel_size=3, padding=1)
        self.context = Conv2d(in_channels, conv_dim, kernel_size=1) if with_context else None
        self.convs = convolutions(conv_dim, conv_dim, num_convs - 1)
        self.deconv = Upsampling(conv_dim)
        self.predictor = predictor(conv_dim, 1)
        weight_init.c2_msra_fill(self.fuse)
        if self.context is not None:
            weight_init.c2_msra_fill(self.context)

    def forward(self, features: torch.Tensor, maps: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        """Draw masks.

        Args:
            features: (R, C, S, S) of the current frame at the boxes.
            maps: (R, A, S, S) attention maps and the logits of the first mask.
            context: (R, C), if the module was made for it.

        Returns:
            (R, 1, 2S, 2S) logits relative to the box.
        """
        x = self.fuse(torch.cat([features, maps.to(features.dtype)], dim=1))
        if self.context is not None:
            x = x + self.context(context[..., None, None].to(features.dtype))
        return self.predictor(self.deconv(self.convs(x)))
