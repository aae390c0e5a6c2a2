"""Region proposal network (arXiv:1506.01497)."""

import torch
import torch.nn.functional as F
from torch import nn

from detectron2.config import configurable
from detectron2.layers import Conv2d, ShapeSpec, cat
from detectron2.structures import Boxes, ImageList, Instances, pairwise_iou
from detectron2.utils.events import get_event_storage
from detectron2.utils.memory import retry_if_cuda_oom
from detectron2.utils.registry import Registry

from ..anchor_generator import build_anchor_generator
from ..box_regression import Box2BoxTransform, _dense_box_regression_loss
from ..matcher import Matcher
from ..sampling import subsample_labels
from .build import PROPOSAL_GENERATOR_REGISTRY
from .proposal_utils import pick_rows, select_proposals, top_per_level

__all__ = ["RPN", "RPN_HEAD_REGISTRY", "StandardRPNHead", "build_rpn_head"]

RPN_HEAD_REGISTRY = Registry("RPN_HEAD")
RPN_HEAD_REGISTRY.__doc__ = "Classes built with `(cfg, input_shape: list[ShapeSpec])`, by name."


def build_rpn_head(cfg, input_shape):
    """Build the RPN head that `cfg.MODEL.RPN.HEAD_NAME` names.

    Args:
        cfg (CfgNode): the whole config.
        input_shape (list[ShapeSpec]): shapes of the features.
    """
    return RPN_HEAD_REGISTRY.get(cfg.MODEL.RPN.HEAD_NAME)(cfg, input_shape)


@RPN_HEAD_REGISTRY.register()
class StandardRPNHead(nn.Module):
    """3x3 convolutions, then one 1x1 convolution for the scores and one for the deltas; the same for all levels.

    Args:
        in_channels (int): channels of every feature.
        num_anchors (int): anchors per cell.
        box_dim (int): values that describe a box.
        conv_dims (list[int]): output channels of each 3x3 convolution; -1 for as many as its input has.
    """

    @configurable
    def __init__(self, *, in_channels: int, num_anchors: int, box_dim: int = 4, conv_dims: list[int] = (-1,)):
        super().__init__()
        hidden, channels = [], in_channels
        for dim in conv_dims:
            out_channels = channels if dim == -1 else dim
            if out_channels <= 0:
                raise ValueError(f"conv_dims must be -1 or positive, got {out_channels}")
            hidden.append(self._get_rpn_conv(channels, out_channels))
            channels = out_channels
        # A single convolution is called "conv", several "conv.conv0" and on: the names that checkpoints use.
        self.conv = hidden[0] if len(hidden) == 1 else nn.Sequential()
        if len(hidden) != 1:
            for i, conv in enumerate(hidden):
                self.conv.add_module(f"conv{i}", conv)
        self.objectness_logits = nn.Conv2d(channels, num_anchors, kernel_size=1)
        self.anchor_deltas = nn.Conv2d(channels, num_anchors * box_dim, kernel_size=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)

    def _get_rpn_conv(self, in_channels, out_channels):
        return Conv2d(in_channels, out_channels, kernel_size=3, padding=1, activation=nn.ReLU())

    @classmethod
    def from_config(cls, cfg, input_shape):
        """Arguments of the constructor from the features, the configured anchors and `cfg.MODEL.RPN.CONV_DIMS`."""
        generator = build_anchor_generator(cfg, input_shape)
        in_channels, num_anchors = {shape.channels for shape in input_shape}, set(generator.num_anchors)
        assert len(in_channels) == 1, f"The levels of an RPN must have the same channels, got {in_channels}"
        assert len(num_anchors) == 1, f"The levels of an RPN must have the same anchors per cell, got {num_anchors}"
        return {
            "in_channels": in_channels.pop(),
            "num_anchors": num_anchors.pop(),
            "box_dim": generator.box_dim,
            "conv_dims": cfg.MODEL.RPN.CONV_DIMS,
        }

    def forward(self, features: list[torch.Tensor]):
        """Args:
            features: per level, (N, C, Hi, Wi).

        Returns:
            list[Tensor]: per level, (N, A, Hi, Wi) logits of being an object.
            list[Tensor]: per level, (N, A * box_dim, Hi, Wi) deltas.
        """
        hidden = [self.conv(feature) for feature in features]
        return [self.objectness_logits(h) for h in hidden], [self.anchor_deltas(h) for h in hidden]


@PROPOSAL_GENERATOR_REGISTRY.register()
class RPN(nn.Module):
    """Scores and refines anchors, and returns the best boxes as proposals.

    Args:
        in_features (list[str]): the features to use.
        head (nn.Module): maps the list of features to logits and deltas, as :class:`StandardRPNHead` does.
        anchor_generator (nn.Module): maps the list of features to a list of anchors.
        anchor_matcher (Matcher): labels anchors by their IoU with the ground truth.
        box2box_transform (Box2BoxTransform): meaning of the deltas.
        batch_size_per_image (int): anchors per image that the losses look at.
        positive_fraction (float): the largest share of foreground among them.
        pre_nms_topk (tuple[int, int]): how many boxes per level enter NMS, in training and in inference.
        post_nms_topk (tuple[int, int]): how many boxes per image leave it, in training and in inference.
        nms_thresh (float): IoU above which NMS drops a box.
        min_box_size (float): both sides of a proposal are longer than this, in pixels.
        anchor_boundary_thresh (float): if >= 0, ignore anchors that reach further than this out of the image.
        loss_weight (float or dict[str, float]): factor on both losses, or by name; 1 for a name that is missing.
        box_reg_loss_type (str): "smooth_l1", "giou", "diou" or "ciou".
        smooth_l1_beta (float): where smooth L1 turns from quadratic to linear; 0 for L1.
    """

    @configurable
    def __init__(
        self,
        *,
        in_features: list[str],
        head: nn.Module,
        anchor_generator: nn.Module,
        anchor_matcher: Matcher,
        box2box_transform: Box2BoxTransform,
        batch_size_per_image: int,
        positive_fraction: float,
        pre_nms_topk: tuple[float, float],
        post_nms_topk: tuple[float, float],
        nms_thresh: float = 0.7,
        min_box_size: float = 0.0,
        anchor_boundary_thresh: float = -1.0,
        loss_weight: float | dict[str, float] = 1.0,
        box_reg_loss_type: str = "smooth_l1",
        smooth_l1_beta: float = 0.0,
    ):
        super().__init__()
        self.rpn_head = head
        self.anchor_generator = anchor_generator
        self.in_features = in_features
        self.anchor_matcher = anchor_matcher
        self.anchor_boundary_thresh = anchor_boundary_thresh
        self.box2box_transform = box2box_transform
        # Sampling of the anchors that are trained.
        self.batch_size_per_image = batch_size_per_image
        self.positive_fraction = positive_fraction
        # Selection of the proposals; the numbers are looked up by `self.training`.
        self.pre_nms_topk = dict(zip((True, False), pre_nms_topk, strict=True))
        self.post_nms_topk = dict(zip((True, False), post_nms_topk, strict=True))
        self.nms_thresh = nms_thresh
        self.min_box_size = float(min_box_size)
        # Losses.
        self.box_reg_loss_type = box_reg_loss_type
        self.smooth_l1_beta = smooth_l1_beta
        if isinstance(loss_weight, (int, float)):
            loss_weight = dict.fromkeys(("loss_rpn_cls", "loss_rpn_loc"), loss_weight)
        self.loss_weight = loss_weight

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]):
        """Arguments of the constructor from `cfg.MODEL.RPN`, `.PROPOSAL_GENERATOR` and `.ANCHOR_GENERATOR`."""
        rpn = cfg.MODEL.RPN
        shapes = [input_shape[name] for name in rpn.IN_FEATURES]
        return {
            "in_features": rpn.IN_FEATURES,
            "anchor_generator": build_anchor_generator(cfg, shapes),
            "head": build_rpn_head(cfg, shapes),
            "anchor_matcher": Matcher(rpn.IOU_THRESHOLDS, rpn.IOU_LABELS, allow_low_quality_matches=True),
            "anchor_boundary_thresh": rpn.BOUNDARY_THRESH,
            "box2box_transform": Box2BoxTransform(weights=rpn.BBOX_REG_WEIGHTS),
            "batch_size_per_image": rpn.BATCH_SIZE_PER_IMAGE,
            "positive_fraction": rpn.POSITIVE_FRACTION,
            "pre_nms_topk": (rpn.PRE_NMS_TOPK_TRAIN, rpn.PRE_NMS_TOPK_TEST),
            "post_nms_topk": (rpn.POST_NMS_TOPK_TRAIN, rpn.POST_NMS_TOPK_TEST),
            "nms_thresh": rpn.NMS_THRESH,
            "min_box_size": cfg.MODEL.PROPOSAL_GENERATOR.MIN_SIZE,
            "box_reg_loss_type": rpn.BBOX_REG_LOSS_TYPE,
            "smooth_l1_beta": rpn.SMOOTH_L1_BETA,
            "loss_weight": {
                "loss_rpn_cls": rpn.LOSS_WEIGHT,
                "loss_rpn_loc": rpn.BBOX_REG_LOSS_WEIGHT * rpn.LOSS_WEIGHT,
            },
        }

    def _subsample_labels(self, label):
        """Set all labels (R,) but a random sample to -1, in place."""
        positive, negative = subsample_labels(label, self.batch_size_per_image, self.positive_fraction, 0)
        return label.fill_(-1).index_fill_(0, positive, 1).index_fill_(0, negative, 0)

    @torch.no_grad()
    def label_and_sample_anchors(
        self, anchors: list[Boxes], gt_instances: list[Instances]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Match the anchors to the ground truth, and choose those that the losses look at.

        Args:
            anchors: per level; R in all.
            gt_instances: per image, with `gt_boxes`.

        Returns:
            list[Tensor]: per image, (R,) int8: 1 foreground, 0 background, -1 ignored or not chosen.
            list[Tensor]: per image, (R, 4), the matched ground-truth box; of meaning only for foreground.
        """
        anchors = Boxes.cat(anchors)
        all_labels, all_matched = [], []
        for instances in gt_instances:
            gt_boxes = instances.gt_boxes
            # Both steps may fall back to the CPU; what comes from there is small.
            quality = retry_if_cuda_oom(pairwise_iou)(gt_boxes, anchors)
            matches, labels = retry_if_cuda_oom(self.anchor_matcher)(quality)
            del quality
            labels = labels.to(device=gt_boxes.device)
            if self.anchor_boundary_thresh >= 0:
                labels[~anchors.inside_box(instances.image_size, self.anchor_boundary_thresh)] = -1
            all_labels.append(self._subsample_labels(labels))
            all_matched.append(gt_boxes[matches].tensor if len(gt_boxes) else torch.zeros_like(anchors.tensor))
        return all_labels, all_matched

    def losses(
        self,
        anchors: list[Boxes],
        pred_objectness_logits: list[torch.Tensor],
        gt_labels: list[torch.Tensor],
        pred_anchor_deltas: list[torch.Tensor],
        gt_boxes: list[torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        """Binary cross entropy of the sampled anchors, and box regression of the foreground among them. Both are sums,
        divided by `batch_size_per_image` times N. Logs `rpn/num_pos_anchors` and `rpn/num_neg_anchors` per image.

        Args:
            anchors: per level, Ri boxes.
            pred_objectness_logits: per level, (N, Ri).
            gt_labels: per image, (R,), from :meth:`label_and_sample_anchors`.
            pred_anchor_deltas: per level, (N, Ri, 4).
            gt_boxes: per image, (R, 4), from :meth:`label_and_sample_anchors`.

        Returns:
            dict[str, Tensor]: `loss_rpn_cls` and `loss_rpn_loc`, weighted.
        """
        num_images = len(gt_labels)
        labels = torch.stack(gt_labels)
        sampled = (labels >= 0).nonzero(as_tuple=True)
        targets = labels[sampled].to(torch.float32)
        num_positive = int(targets.sum().item())
        storage = get_event_storage()
        storage.put_scalar("rpn/num_pos_anchors", num_positive / num_images)
        storage.put_scalar("rpn/num_neg_anchors", (len(targets) - num_positive) / num_images)

        cls_loss = F.binary_cross_entropy_with_logits(
            cat(pred_objectness_logits, dim=1)[sampled], targets, reduction="sum"
        )
        loc_loss = _dense_box_regression_loss(
            anchors,
            self.box2box_transform,
            pred_anchor_deltas,
            gt_boxes,
            labels == 1,
            box_reg_loss_type=self.box_reg_loss_type,
            smooth_l1_beta=self.smooth_l1_beta,
        )
        normalizer = self.batch_size_per_image * num_images
        return {
            name: loss / normalizer * self.loss_weight.get(name, 1.0)
            for name, loss in (("loss_rpn_cls", cls_loss), ("loss_rpn_loc", loc_loss))
        }

    def forward(
        self,
        images: ImageList,
        features: dict[str, torch.Tensor],
        gt_instances: list[Instances] | None = None,
    ):
        """Args:
            images: N images; only their sizes are used.
            features: (N, C, Hi, Wi) by name.
            gt_instances: per image, with `gt_boxes`; needed in training.

        Returns:
            list[Instances]: per image, `proposal_boxes` and `objectness_logits`, best first.
            dict[str, Tensor]: the losses; empty in inference.
        """
        features = [features[name] for name in self.in_features]
        anchors = self.anchor_generator(features)
        logits, deltas = self.rpn_head(features)
        # Anchors become the last axis, or the last but one: (N, Ri) and (N, Ri, box_dim), in the anchors' order.
        box_dim = self.anchor_generator.box_dim
        logits = [level.permute(0, 2, 3, 1).flatten(1) for level in logits]
        deltas = [level.unflatten(1, (-1, box_dim)).permute(0, 3, 4, 1, 2).flatten(1, 3) for level in deltas]

        losses = {}
        if self.training:
            assert gt_instances is not None, "An RPN needs gt_instances in training"
            gt_labels, gt_boxes = self.label_and_sample_anchors(anchors, gt_instances)
            losses = self.losses(anchors, logits, gt_labels, deltas, gt_boxes)
        return self.predict_proposals(anchors, logits, deltas, images.image_sizes), losses

    @torch.no_grad()
    def predict_proposals(
        self,
        anchors: list[Boxes],
        pred_objectness_logits: list[torch.Tensor],
        pred_anchor_deltas: list[torch.Tensor],
        image_sizes: list[tuple[int, int]],
    ):
        """Decode the best anchors of each level, and select among them. No gradient flows back through the proposals.

        Args:
            anchors: per level, Ri boxes.
            pred_objectness_logits: per level, (N, Ri).
            pred_anchor_deltas: per level, (N, Ri, 4).
            image_sizes: per image, (height, width).

        Returns:
            list[Instances]: per image, `proposal_boxes` and `objectness_logits`, best first.
        """
        scores, indices, levels = top_per_level(pred_objectness_logits, self.pre_nms_topk[self.training])
        deltas = pick_rows(pred_anchor_deltas, indices)
        sources = cat([boxes.tensor[i] for boxes, i in zip(anchors, indices, strict=True)], dim=1)
        boxes = self.box2box_transform.apply_deltas(deltas.flatten(0, 1), sources.flatten(0, 1))
        return select_proposals(
            boxes.view_as(deltas),
            scores,
            levels,
            image_sizes,
            nms_thresh=self.nms_thresh,
            post_nms_topk=self.post_nms_topk[self.training],
            min_box_size=self.min_box_size,
            training=self.training,
        )
