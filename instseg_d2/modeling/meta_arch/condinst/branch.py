"""What CondInst computes once an image, for all of its instances: mask features, and optionally semantic classes."""

import math
from collections.abc import Mapping, Sequence

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.layers import Conv2d
from torch import nn

from instseg_d2.layers.convolution import conv_block
from instseg_d2.layers.focal_loss import focal_loss_of_labels
from instseg_d2.layers.upsample import aligned_bilinear


def _convolution(in_channels: int, out_channels: int, norm: str) -> Conv2d:
    """3x3, norm and ReLU."""
    layer = conv_block(in_channels, out_channels, norm=norm)
    weight_init.c2_xavier_fill(layer)
    return layer


class MaskBranch(nn.Module):
    """Features for the masks of all instances, of the size of the finest level (CondInst, arXiv:2003.05664, Sec. 3.3).

    Each level is refined by a convolution and upsampled, the sum goes through a tower of convolutions.

    Args:
        in_features: names of the levels, finest first.
        in_channels: their channels.
        channels: of the convolutions between.
        num_convs: number of 3x3 convolutions in the tower.
        out_channels: channels of the mask features: 8 in CondInst, 16 in BoxInst.
        norm: as `detectron2.layers.get_norm` takes it; BatchNorm without synchronization in AdelaiDet.
    """

    def __init__(
        self,
        *,
        in_features: Sequence[str],
        in_channels: int,
        channels: int = 128,
        num_convs: int = 4,
        out_channels: int = 8,
        norm: str = "BN",
    ):
        super().__init__()
        self.in_features = list(in_features)
        self.refine = nn.ModuleList(_convolution(in_channels, channels, norm) for _ in self.in_features)
        tower = [_convolution(channels, channels, norm) for _ in range(num_convs)]
        self.tower = nn.Sequential(*tower, nn.Conv2d(channels, out_channels, 1))

    def forward(self, features: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Map (N, C, H_l, W_l) levels by name to (N, out_channels, H, W), the size of the first of `in_features`."""
        total = None
        for name, layer in zip(self.in_features, self.refine, strict=True):
            x = layer(features[name])
            total = x if total is None else total + aligned_bilinear(x, _factor(x, total))
        return self.tower(total)


def _factor(coarse: torch.Tensor, fine: torch.Tensor) -> int:
    factor = fine.shape[2] // coarse.shape[2]
    assert fine.shape[2:] == tuple(factor * side for side in coarse.shape[2:]), (coarse.shape, fine.shape)
    return factor


class SemanticHead(nn.Module):
    """Classes of pixels, learned beside the masks and not used in inference (CondInst, extended: arXiv:2102.03026).

    Args:
        in_feature: name of the level.
        in_channels: its channels.
        num_classes: of the detector.
        channels: of the two convolutions.
        norm: see `MaskBranch`.
        prior_prob: probability of a class before training.
        focal_loss_alpha: see `focal_loss_of_labels`.
        focal_loss_gamma: see `focal_loss_of_labels`.
        loss_weight: factor on the loss.
    """

    def __init__(
        self,
        *,
        in_feature: str,
        in_channels: int,
        num_classes: int,
        channels: int = 128,
        norm: str = "BN",
        prior_prob: float = 0.01,
        focal_loss_alpha: float = 0.25,
        focal_loss_gamma: float = 2.0,
        loss_weight: float = 1.0,
    ):
        super().__init__()
        self.in_feature = in_feature
        self.num_classes = num_classes
        self.focal_loss_alpha = focal_loss_alpha
        self.focal_loss_gamma = focal_loss_gamma
        self.loss_weight = loss_weight
        self.convs = nn.Sequential(_convolution(in_channels, channels, norm), _convolution(channels, channels, norm))
        self.predictor = nn.Conv2d(channels, num_classes, 1)
        nn.init.constant_(self.predictor.bias, -math.log((1 - prior_prob) / prior_prob))

    def forward(self, features: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Map (N, C, H_l, W_l) levels by name to (N, num_classes, H, W) logits of one of them."""
        return self.predictor(self.convs(features[self.in_feature]))

    def losses(self, logits: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute `loss_sem`, the focal loss over the number of pixels that have a class.

        Args:
            logits: (N, num_classes, H, W).
            labels: (N, H, W) int64 class, `num_classes` for background.
        """
        total = focal_loss_of_labels(
            logits.float().movedim(1, -1), labels, alpha=self.focal_loss_alpha, gamma=self.focal_loss_gamma
        )
        return {"loss_sem": self.loss_weight * total / (labels < self.num_classes).sum().clamp(min=1)}


def semantic_labels(maps: torch.Tensor, areas: torch.Tensor, classes: torch.Tensor, num_classes: int) -> torch.Tensor:
    """The class of the smallest object at each point.

    Args:
        maps: (M, H, W) bool, where the objects of an image are.
        areas: (M,) their size.
        classes: (M,) int64.
        num_classes: the label of points without object.

    Returns:
        (H, W) int64.
    """
    background = classes.new_full(maps.shape[1:], num_classes)
    if len(maps) == 0:
        return background
    smallest, index = torch.where(maps, areas.float()[:, None, None], math.inf).min(dim=0)
    return torch.where(smallest.isfinite(), classes[index], background)
