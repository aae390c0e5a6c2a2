"""ATMask R-CNN's mask head: a learned threshold for every pixel, and a differentiable binarisation by it."""

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.layers import Conv2d, ConvTranspose2d
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Instances
from torch import nn
from torch.nn import functional as F

from instseg_d2.layers.mask_losses import mask_bce, pick_channel

from .base import MaskHead, attach

_RESULTS = ("binary", "probability")
_TARGETS = ("background", "mask")


def binarization_logits(probability: torch.Tensor, threshold: torch.Tensor, steepness: float) -> torch.Tensor:
    """K (P - T): its sigmoid is B = 1 / (1 + exp(-k (P - T))) (eq. 2 of the paper), of the same shape.

    Args:
        probability: P, in [0, 1].
        threshold: T, in [0, 1].
        steepness: k.
    """
    return steepness * (probability.float() - threshold.float())


def _convolution(in_channels: int, channels: int, size: int = 3, stride: int = 1) -> Conv2d:
    layer = Conv2d(in_channels, channels, kernel_size=size, stride=stride, padding=size // 2, activation=F.relu)
    weight_init.c2_msra_fill(layer)
    return layer


def _output(channels: int, num_classes: int) -> tuple[ConvTranspose2d, Conv2d]:
    """Upsampling and predictor, as Mask R-CNN's."""
    deconv, predictor = ConvTranspose2d(channels, channels, kernel_size=2, stride=2), Conv2d(channels, num_classes, 1)
    weight_init.c2_msra_fill(deconv)
    nn.init.normal_(predictor.weight, std=0.001)
    nn.init.zeros_(predictor.bias)
    return deconv, predictor


class ATMaskHead(MaskHead):
    """A probability branch as Mask R-CNN's and a threshold branch on finer features, joined by B = sigma(k (P - T)).

    ATMask R-CNN, Sec. 3. The head pools for itself: the detector has `mask_pooler=None` and hands it its feature maps.
    The paper leaves much of the threshold branch open; its blanks are filled as in boundary-preserving Mask R-CNN
    (arXiv:2007.08921), whose layout it shares, with concatenation in place of addition.

    Args:
        in_channels: of the feature maps.
        num_classes: channels of P and, unless `shared_threshold`, of T; 1 for class-agnostic maps.
        in_features: names of the feature maps of `pooler`.
        pooler: pools the probability branch's features, side M/2.
        threshold_in_features: names of the feature maps of `threshold_pooler`; the paper's RoI strategy is P2 alone.
        threshold_pooler: pools the threshold branch's features, side M/2 or M. The latter is halved by a convolution
            of stride 2.
        conv_dim: channels of every layer.
        num_convs: 3x3 convolutions of the probability branch.
        num_threshold_convs: those of the threshold branch.
        probability_to_threshold: the threshold branch gets the probability features beside its own (eq. 3).
        threshold_to_probability: the probability branch gets the threshold features beside its own.
        reduce_first: 1x1 convolutions bring a concatenation back to `conv_dim` before the branch goes on; else its
            next 3x3 convolution takes all channels.
        steepness: k of the binarisation, in training and inference alike.
        threshold_target: what T is trained on. "background": 1 - mask, as the paper's text asks for (T low on the
            object). "mask" is its printed formula read literally; then P and T become equal and B one half.
        shared_threshold: one channel of T for all classes.
        loss_weight: of `loss_mask` (P).
        threshold_weight: of `loss_threshold` (T).
        binary_weight: of `loss_binary` (B), the paper's lambda.
        result: what `pred_masks` are in inference: "binary" (B) or "probability" (P).
        keep_aux: in inference also give `pred_thresholds` and `pred_probabilities`, (R, 1, M, M) in [0, 1].

    Raises:
        ValueError: an unknown setting, or poolers whose sizes do not fit.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        in_features: list[str],
        pooler: ROIPooler,
        threshold_in_features: list[str],
        threshold_pooler: ROIPooler,
        conv_dim: int = 256,
        num_convs: int = 4,
        num_threshold_convs: int = 2,
        probability_to_threshold: bool = True,
        threshold_to_probability: bool = True,
        reduce_first: bool = False,
        steepness: float = 2.0,
        threshold_target: str = "background",
        shared_threshold: bool = False,
        loss_weight: float = 1.0,
        threshold_weight: float = 1.0,
        binary_weight: float = 2.0,
        result: str = "binary",
        keep_aux: bool = False,
    ):
        super().__init__(loss_weight=loss_weight)
        if result not in _RESULTS or threshold_target not in _TARGETS:
            raise ValueError(
                f"result={result!r}, threshold_target={threshold_target!r}: must be one of {_RESULTS}, {_TARGETS}"
            )
        self.in_features, self.threshold_in_features = list(in_features), list(threshold_in_features)
        self.pooler, self.threshold_pooler = pooler, threshold_pooler
        reduction = _reduction(pooler, threshold_pooler)
        self.halving = _convolution(in_channels, in_channels, stride=2) if reduction == 2 else nn.Identity()
        self.convs = nn.Sequential(
            *(_convolution(in_channels if number == 0 else conv_dim, conv_dim) for number in range(num_convs))
        )
        fused = in_channels + conv_dim
        self.probability_to_threshold = probability_to_threshold
        entry: list[nn.Module] = []
        width = fused if probability_to_threshold else in_channels
        if probability_to_threshold and reduce_first:
            entry, width = [_convolution(fused, conv_dim, size=1)], conv_dim
        self.threshold_convs = nn.Sequential(
            *entry,
            *(_convolution(width if number == 0 else conv_dim, conv_dim) for number in range(num_threshold_convs)),
        )
        self.fusion = None
        if threshold_to_probability:
            steps = [_convolution(2 * conv_dim, conv_dim, size=1)] if reduce_first else []
            self.fusion = nn.Sequential(*steps, _convolution(conv_dim if reduce_first else 2 * conv_dim, conv_dim))
        self.deconv, self.predictor = _output(conv_dim, num_classes)
        self.threshold_deconv, self.threshold_predictor = _output(conv_dim, 1 if shared_threshold else num_classes)
        self.steepness = steepness
        self.threshold_target = threshold_target
        self.threshold_weight, self.binary_weight = threshold_weight, binary_weight
        self.result, self.keep_aux = result, keep_aux

    def layers(
        self, x: dict[str, torch.Tensor], instances: list[Instances]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """See `MaskHead.layers`; the logits are `masks` (of P) and `thresholds` (of T), side M.

        Args:
            x: feature maps (N, C, H_l, W_l) by name.
            instances: per image.
        """
        boxes = self.boxes(instances)
        probability = self.convs(self.pooler([x[name] for name in self.in_features], boxes))
        threshold = self.halving(self.threshold_pooler([x[name] for name in self.threshold_in_features], boxes))
        if self.probability_to_threshold:
            threshold = torch.cat([probability, threshold], dim=1)
        threshold = self.threshold_convs(threshold)
        if self.fusion is not None:
            probability = self.fusion(torch.cat([probability, threshold], dim=1))
        features = F.relu(self.deconv(probability))
        thresholds = self.threshold_predictor(F.relu(self.threshold_deconv(threshold)))
        return features, {"masks": self.predictor(features), "thresholds": thresholds}

    @property
    def loss_names(self) -> list[str]:
        return ["loss_mask", "loss_threshold", "loss_binary"]

    def map_losses(
        self, maps: dict[str, torch.Tensor], targets: torch.Tensor, instances: list[Instances]
    ) -> dict[str, torch.Tensor]:
        """Compute `loss_mask`, `loss_threshold` and `loss_binary`, each a binary cross entropy averaged over pixels.

        The paper prints sums over pixels; sums would ask for a learning rate that is 784 times smaller.

        Args:
            maps: see `MaskHead.map_losses`.
            targets: see there.
            instances: see there.
        """
        losses = super().map_losses(maps, targets, instances)
        masks, thresholds = maps["masks"].float(), maps["thresholds"].float()
        threshold_targets = 1 - targets if self.threshold_target == "background" else targets
        binary = binarization_logits(masks.sigmoid(), thresholds.sigmoid(), self.steepness)
        losses["loss_threshold"] = self.threshold_weight * mask_bce(thresholds, threshold_targets)
        losses["loss_binary"] = self.binary_weight * mask_bce(binary, targets)
        return losses

    def inference(self, logits: dict[str, torch.Tensor], instances: list[Instances]) -> list[Instances]:
        """Attach `pred_masks`, B or P of the predicted class; B >= 1/2 wherever P >= T, for every k."""
        classes = torch.cat([x.pred_classes for x in instances])
        probability, threshold = (
            pick_channel(logits[name], classes).float().sigmoid()[:, None] for name in ("masks", "thresholds")
        )
        binary = binarization_logits(probability, threshold, self.steepness).sigmoid()
        attach(instances, "pred_masks", binary if self.result == "binary" else probability)
        if self.keep_aux:
            attach(instances, "pred_thresholds", threshold)
            attach(instances, "pred_probabilities", probability)
        return instances


def _reduction(pooler: ROIPooler, threshold_pooler: ROIPooler) -> int:
    """How many times larger the threshold features are than the probability features: 1 or 2."""
    size, threshold_size = (tuple(part.output_size) for part in (pooler, threshold_pooler))
    for factor in (1, 2):
        if threshold_size == tuple(factor * side for side in size):
            return factor
    raise ValueError(f"threshold_pooler gives {threshold_size}; it must be once or twice the {size} of pooler")
