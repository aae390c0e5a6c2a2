"""Mask heads: pooled region features in, one small mask per region (and class) out; their loss and inference."""

import fvcore.nn.weight_init as weight_init
import torch
from torch import nn
from torch.nn import functional as F

from detectron2.config import configurable
from detectron2.layers import Conv2d, ConvTranspose2d, ShapeSpec, cat, get_norm
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage
from detectron2.utils.registry import Registry

__all__ = ["BaseMaskRCNNHead", "MaskRCNNConvUpsampleHead", "build_mask_head", "ROI_MASK_HEAD_REGISTRY"]

ROI_MASK_HEAD_REGISTRY = Registry("ROI_MASK_HEAD")
ROI_MASK_HEAD_REGISTRY.__doc__ = "Mask heads by name; each is called as `head(cfg, input_shape)`."


def _select_class_channel(mask_logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Pick from (R, C, M, M) the channel that (R,) `classes` names: (R, M, M)."""
    rows = torch.arange(len(mask_logits), device=mask_logits.device)
    return mask_logits[rows, classes]


def mask_rcnn_loss(pred_mask_logits: torch.Tensor, instances: list[Instances], vis_period: int = 0) -> torch.Tensor:
    """Binary cross entropy between the mask of each region's true class and its ground truth, cropped to its box.

    Logs `mask_rcnn/accuracy`, `mask_rcnn/false_positive` and `mask_rcnn/false_negative` (fractions of pixels).

    Args:
        pred_mask_logits: (R, C, M, M) logits, R = all foreground regions of the batch, C = number of classes,
            or 1 for class-agnostic masks.
        instances: one per image, together R regions in the order of the logits, with `proposal_boxes`,
            `gt_classes` and `gt_masks`.
        vis_period: every how many iterations predictions and truth are put into the event storage; 0: never.

    Returns:
        a scalar; without any region a zero that is still connected to the logits.
    """
    num_channels, side, other_side = pred_mask_logits.shape[1:]
    assert side == other_side, f"Masks must be square, not {side}x{other_side}!"
    nonempty = [x for x in instances if len(x) > 0]
    if not nonempty:
        return pred_mask_logits.sum() * 0

    device = pred_mask_logits.device
    crops = [x.gt_masks.crop_and_resize(x.proposal_boxes.tensor, side).to(device=device) for x in nonempty]
    target = cat(crops, dim=0)
    if num_channels == 1:
        logits = pred_mask_logits[:, 0]
    else:
        logits = _select_class_channel(pred_mask_logits, cat([x.gt_classes.long() for x in nonempty]))

    is_foreground = target if target.dtype == torch.bool else target > 0.5
    target = target.to(dtype=torch.float32)
    _log_mask_statistics(logits, is_foreground)
    storage = get_event_storage()
    if vis_period > 0 and storage.iter % vis_period == 0:
        side_by_side = torch.cat([logits.sigmoid(), target], dim=2)
        for index, gray in enumerate(side_by_side):
            caption = f"Left: mask prediction;   Right: mask GT ({index})"
            storage.put_image(caption, gray.expand(3, -1, -1))

    return F.binary_cross_entropy_with_logits(logits, target, reduction="mean")


def _log_mask_statistics(logits: torch.Tensor, is_foreground: torch.Tensor) -> None:
    """Put pixel error rates at probability 0.5 into the event storage."""
    is_wrong = (logits > 0.0) != is_foreground
    counts = [is_wrong.sum(), is_foreground.sum(), (is_wrong & is_foreground).sum()]
    # One transfer for all counts: the device is waited for once.
    num_wrong, num_foreground, num_missed = torch.stack(counts).tolist()
    num_pixels = is_wrong.numel()
    num_background = num_pixels - num_foreground

    storage = get_event_storage()
    storage.put_scalar("mask_rcnn/accuracy", 1 - num_wrong / max(num_pixels, 1.0))
    storage.put_scalar("mask_rcnn/false_positive", (num_wrong - num_missed) / max(num_background, 1.0))
    storage.put_scalar("mask_rcnn/false_negative", num_missed / max(num_foreground, 1.0))


def mask_rcnn_inference(pred_mask_logits: torch.Tensor, pred_instances: list[Instances]) -> None:
    """Give each predicted instance the soft mask of its predicted class.

    Args:
        pred_mask_logits: (R, C, M, M) logits, C = number of classes, or 1 for class-agnostic masks.
        pred_instances: one per image, together R instances in the order of the logits, with `pred_classes`.
            Each gets `pred_masks`: (R_i, 1, M, M) probabilities relative to its box, neither resized nor
            thresholded.
    """
    if pred_mask_logits.shape[1] > 1:
        classes = cat([x.pred_classes for x in pred_instances])
        pred_mask_logits = _select_class_channel(pred_mask_logits, classes).unsqueeze(1)
    per_image = pred_mask_logits.sigmoid().split([len(x) for x in pred_instances])
    for probabilities, x in zip(per_image, pred_instances, strict=True):
        x.pred_masks = probabilities


class BaseMaskRCNNHead(nn.Module):
    """Mask R-CNN's loss and inference around the layers that a subclass defines."""

    @configurable
    def __init__(self, *, loss_weight: float = 1.0, vis_period: int = 0):
        """Args:
        loss_weight: factor of the mask loss.
        vis_period: see :func:`mask_rcnn_loss`.
        """
        super().__init__()
        self.loss_weight = loss_weight
        self.vis_period = vis_period

    @classmethod
    def from_config(cls, cfg, input_shape):
        return dict(vis_period=cfg.VIS_PERIOD)

    def forward(self, x, instances: list[Instances]):
        """Predict masks, then compute the loss (training) or attach them to the instances (inference).

        Args:
            x: what the RoI heads hand over: (R, C, H, W) pooled features, or a dict of feature levels when
                there is no mask pooler.
            instances: per image, the foreground proposals with their ground truth (training) or the
                detections (inference) that `x` belongs to.

        Returns:
            `{"loss_mask": scalar}` in training; in inference the same `instances`, now with `pred_masks`.
        """
        logits = self.layers(x)
        if self.training:
            return {"loss_mask": mask_rcnn_loss(logits, instances, self.vis_period) * self.loss_weight}
        mask_rcnn_inference(logits, instances)
        return instances

    def layers(self, x):
        """Compute (R, C, M, M) mask logits from the features."""
        raise NotImplementedError


@ROI_MASK_HEAD_REGISTRY.register()
class MaskRCNNConvUpsampleHead(BaseMaskRCNNHead, nn.Sequential):
    """3x3 convolutions (`mask_fcn1`, ...), a 2x transposed convolution (`deconv`) and a 1x1 `predictor`.

    A sequence: the layers run in the order in which they were added.
    """

    @configurable
    def __init__(self, input_shape: ShapeSpec, *, num_classes, conv_dims, conv_norm="", **kwargs):
        """Args:
        input_shape: its channels are those of the pooled features.
        num_classes: number of mask channels; 1 for class-agnostic masks.
        conv_dims: output channels of each 3x3 convolution, and as last element of the transposed one.
        conv_norm: normalisation after the convolutions, as :func:`detectron2.layers.get_norm` takes it.
        kwargs: for :class:`BaseMaskRCNNHead`.
        """
        super().__init__(**kwargs)
        assert len(conv_dims) >= 1, "conv_dims needs at least the width of the upsampling layer."
        *hidden_dims, upsampled_dim = conv_dims

        self.conv_norm_relus = []
        channels = input_shape.channels
        for index, dim in enumerate(hidden_dims, start=1):
            layer = Conv2d(
                channels,
                dim,
                kernel_size=3,
                padding=1,
                bias=not conv_norm,
                norm=get_norm(conv_norm, dim),
                activation=nn.ReLU(),
            )
            self.add_module(f"mask_fcn{index}", layer)
            self.conv_norm_relus.append(layer)
            channels = dim
        self.deconv = ConvTranspose2d(channels, upsampled_dim, kernel_size=2, stride=2)
        self.add_module("deconv_relu", nn.ReLU())
        self.predictor = Conv2d(upsampled_dim, num_classes, kernel_size=1)

        for layer in (*self.conv_norm_relus, self.deconv):
            weight_init.c2_msra_fill(layer)
        # Small weights: all probabilities start at one half.
        nn.init.normal_(self.predictor.weight, std=0.001)
        nn.init.zeros_(self.predictor.bias)

    @classmethod
    def from_config(cls, cfg, input_shape):
        head = cfg.MODEL.ROI_MASK_HEAD
        return {
            **super().from_config(cfg, input_shape),
            "input_shape": input_shape,
            "num_classes": 1 if head.CLS_AGNOSTIC_MASK else cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            "conv_dims": [head.CONV_DIM] * (head.NUM_CONV + 1),
            "conv_norm": head.NORM,
        }

    def layers(self, x: torch.Tensor) -> torch.Tensor:
        """Map (R, C, H, W) pooled features to (R, `num_classes`, 2H, 2W) mask logits."""
        for layer in self:
            x = layer(x)
        return x


def build_mask_head(cfg, input_shape) -> nn.Module:
    """Build the mask head that `cfg.MODEL.ROI_MASK_HEAD.NAME` names."""
    return ROI_MASK_HEAD_REGISTRY.get(cfg.MODEL.ROI_MASK_HEAD.NAME)(cfg, input_shape)
