"""RetinaNet (arXiv:1708.02002): anchors at every location, focal loss."""

import logging
import math

import torch
from fvcore.nn import sigmoid_focal_loss_jit
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from detectron2.config import configurable
from detectron2.layers import CycleBatchNormList, ShapeSpec, batched_nms, cat, get_norm
from detectron2.structures import Boxes, ImageList, Instances, pairwise_iou
from detectron2.utils.events import get_event_storage

from ..anchor_generator import build_anchor_generator
from ..backbone import Backbone, build_backbone
from ..box_regression import Box2BoxTransform, _dense_box_regression_loss
from ..matcher import Matcher
from .build import META_ARCH_REGISTRY
from .dense_detector import DenseDetector
from .dense_detector import permute_to_N_HWA_K as permute_to_N_HWA_K  # importable from here, as upstream's

__all__ = ["RetinaNet"]

logger = logging.getLogger(__name__)


def focal_loss_of_labels(
    logits: torch.Tensor, labels: torch.Tensor, num_classes: int, alpha: float, gamma: float
) -> torch.Tensor:
    """Sum the focal loss of (..., K) class logits with (...,) labels in [0, K]; K, the background, has no logit."""
    # Scattering needs one float per logit; one_hot() would need a 64 bit integer each, and a copy of them.
    is_foreground = (labels < num_classes).to(logits.dtype).unsqueeze(-1)
    targets = torch.zeros_like(logits).scatter_(-1, labels.clamp(max=num_classes - 1).unsqueeze(-1), is_foreground)
    return sigmoid_focal_loss_jit(logits, targets, alpha=alpha, gamma=gamma, reduction="sum")


@META_ARCH_REGISTRY.register()
class RetinaNet(DenseDetector):
    """One-stage detector with anchors. R below: all anchors of an image, over all levels."""

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        head: nn.Module,
        head_in_features,
        anchor_generator,
        box2box_transform,
        anchor_matcher,
        num_classes,
        focal_loss_alpha=0.25,
        focal_loss_gamma=2.0,
        smooth_l1_beta=0.0,
        box_reg_loss_type="smooth_l1",
        test_score_thresh=0.05,
        test_topk_candidates=1000,
        test_nms_thresh=0.5,
        max_detections_per_image=100,
        pixel_mean,
        pixel_std,
        vis_period=0,
        input_format="BGR",
    ):
        """Args:
        backbone: see :class:`DenseDetector`.
        head: predicts per level class logits and box deltas of every anchor, as :class:`RetinaNetHead` does.
        head_in_features: see :class:`DenseDetector`.
        anchor_generator: makes the anchors of a list of feature maps.
        box2box_transform: translates between boxes and deltas.
        anchor_matcher: a :class:`Matcher` from IoU to (matched ground truth, label).
        num_classes: number of foreground classes K.
        focal_loss_alpha: weight of positives against negatives.
        focal_loss_gamma: how much easy examples are damped.
        smooth_l1_beta: where the smooth L1 loss turns from quadratic to linear; 0 is plain L1.
        box_reg_loss_type: "smooth_l1", "giou", "diou" or "ciou".
        test_score_thresh: a detection's score must exceed this.
        test_topk_candidates: number of candidates per level that go into NMS.
        test_nms_thresh: a box goes when its IoU with a better one of its class exceeds this.
        max_detections_per_image: how many are returned.
        pixel_mean: see :class:`DenseDetector`.
        pixel_std: see :class:`DenseDetector`.
        vis_period: kept for callers of :meth:`visualize_training`.
        input_format: meaning of the image's channels.
        """
        super().__init__(backbone, head, head_in_features, pixel_mean=pixel_mean, pixel_std=pixel_std)
        self.anchor_generator = anchor_generator
        self.anchor_matcher = anchor_matcher
        self.box2box_transform = box2box_transform
        self.num_classes = num_classes
        self.focal_loss_gamma = focal_loss_gamma
        self.focal_loss_alpha = focal_loss_alpha
        self.box_reg_loss_type = box_reg_loss_type
        self.smooth_l1_beta = smooth_l1_beta
        self.max_detections_per_image = max_detections_per_image
        self.test_nms_thresh = test_nms_thresh
        self.test_topk_candidates = test_topk_candidates
        self.test_score_thresh = test_score_thresh
        self.input_format = input_format
        self.vis_period = vis_period

    @classmethod
    def from_config(cls, cfg):
        retina = cfg.MODEL.RETINANET
        backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        head_shapes = [shapes[name] for name in retina.IN_FEATURES]
        matcher = Matcher(retina.IOU_THRESHOLDS, retina.IOU_LABELS, allow_low_quality_matches=True)
        return dict(
            backbone=backbone,
            head=RetinaNetHead(cfg, head_shapes),
            head_in_features=retina.IN_FEATURES,
            anchor_generator=build_anchor_generator(cfg, head_shapes),
            anchor_matcher=matcher,
            box2box_transform=Box2BoxTransform(weights=retina.BBOX_REG_WEIGHTS),
            num_classes=retina.NUM_CLASSES,
            focal_loss_alpha=retina.FOCAL_LOSS_ALPHA,
            focal_loss_gamma=retina.FOCAL_LOSS_GAMMA,
            box_reg_loss_type=retina.BBOX_REG_LOSS_TYPE,
            smooth_l1_beta=retina.SMOOTH_L1_LOSS_BETA,
            test_score_thresh=retina.SCORE_THRESH_TEST,
            test_topk_candidates=retina.TOPK_CANDIDATES_TEST,
            test_nms_thresh=retina.NMS_THRESH_TEST,
            max_detections_per_image=cfg.TEST.DETECTIONS_PER_IMAGE,
            pixel_mean=cfg.MODEL.PIXEL_MEAN,
            pixel_std=cfg.MODEL.PIXEL_STD,
            input_format=cfg.INPUT.FORMAT,
            vis_period=cfg.VIS_PERIOD,
        )

    def forward_training(self, images, features, predictions, gt_instances):
        """Label the anchors and compute the losses."""
        logits, deltas = self._transpose_dense_predictions(predictions, [self.num_classes, 4])
        anchors = self.anchor_generator(features)
        labels, matched_boxes = self.label_anchors(anchors, gt_instances)
        return self.losses(anchors, logits, labels, deltas, matched_boxes)

    def losses(self, anchors, pred_logits, gt_labels, pred_anchor_deltas, gt_boxes):
        """Compute `loss_cls` (focal) and `loss_box_reg`, both per positive anchor, and log `num_pos_anchors`.

        Args:
            anchors: Boxes per level.
            pred_logits: per level (N, R_l, K).
            gt_labels: per image (R,), see :meth:`label_anchors`.
            pred_anchor_deltas: per level (N, R_l, 4).
            gt_boxes: per image (R, 4), see :meth:`label_anchors`.
        """
        labels = torch.stack(gt_labels)
        is_valid = labels >= 0
        is_positive = is_valid & (labels != self.num_classes)
        num_positive = is_positive.sum().item()
        get_event_storage().put_scalar("num_pos_anchors", num_positive / len(gt_labels))
        normalizer = self._ema_update("loss_normalizer", max(num_positive, 1), initial_value=100)

        logits = cat(pred_logits, dim=1)[is_valid]
        loss_cls = focal_loss_of_labels(
            logits, labels[is_valid], self.num_classes, self.focal_loss_alpha, self.focal_loss_gamma
        )
        box_loss_settings = (self.box_reg_loss_type, self.smooth_l1_beta)
        loss_box_reg = _dense_box_regression_loss(
            anchors, self.box2box_transform, pred_anchor_deltas, gt_boxes, is_positive, *box_loss_settings
        )
        return {"loss_cls": loss_cls / normalizer, "loss_box_reg": loss_box_reg / normalizer}

    @torch.no_grad()
    def label_anchors(self, anchors: list[Boxes], gt_instances: list[Instances]):
        """Match the anchors of every image with its ground truth.

        Args:
            anchors: Boxes per level.
            gt_instances: per image, with `gt_boxes` and `gt_classes`.

        Returns:
            per image (R,) labels in [-1, K], -1 = ignored, K = background; and per image the (R, 4) matched
            boxes, arbitrary where the label is not foreground.
        """
        all_anchors = Boxes.cat(anchors)
        all_labels, all_boxes = [], []
        for target in gt_instances:
            matched_idxs, match_labels = self.anchor_matcher(pairwise_iou(target.gt_boxes, all_anchors))
            if len(target) > 0:
                labels = target.gt_classes[matched_idxs].masked_fill(match_labels == 0, self.num_classes)
                labels = labels.masked_fill(match_labels == -1, -1)
                boxes = target.gt_boxes.tensor[matched_idxs]
            else:
                labels = torch.full_like(matched_idxs, self.num_classes)
                boxes = torch.zeros_like(all_anchors.tensor)
            all_labels.append(labels)
            all_boxes.append(boxes)
        return all_labels, all_boxes

    def forward_inference(
        self, images: ImageList, features: list[torch.Tensor], predictions: list[list[torch.Tensor]]
    ) -> list[Instances]:
        """Decode the detections of every image."""
        logits, deltas = self._transpose_dense_predictions(predictions, [self.num_classes, 4])
        anchors = self.anchor_generator(features)
        return [
            self.inference_single_image(anchors, [x[i].sigmoid() for x in logits], [x[i] for x in deltas], size)
            for i, size in enumerate(images.image_sizes)
        ]

    def inference_single_image(
        self,
        anchors: list[Boxes],
        box_cls: list[torch.Tensor],
        box_delta: list[torch.Tensor],
        image_size: tuple[int, int],
    ) -> Instances:
        """Decode one image, then apply NMS per class.

        Args:
            anchors: Boxes per level.
            box_cls: per level (R_l, K) probabilities.
            box_delta: per level (R_l, 4).
            image_size: (height, width).
        """
        return decode_and_suppress(self, anchors, box_cls, box_delta, image_size)


def decode_and_suppress(
    detector: DenseDetector,
    anchors: list[Boxes],
    scores: list[torch.Tensor],
    deltas: list[torch.Tensor],
    image_size: tuple[int, int],
) -> Instances:
    """Decode one image with the `test_*` settings of the detector, then apply NMS per class."""
    candidates = detector._decode_multi_level_predictions(
        anchors, scores, deltas, detector.test_score_thresh, detector.test_topk_candidates, image_size
    )
    keep = batched_nms(
        candidates.pred_boxes.tensor, candidates.scores, candidates.pred_classes, detector.test_nms_thresh
    )
    return candidates[keep[: detector.max_detections_per_image]]


class RetinaNetHead(nn.Module):
    """Two towers of 3x3 convolutions, shared by all levels: `cls_subnet`/`cls_score`, `bbox_subnet`/`bbox_pred`."""

    @configurable
    def __init__(
        self,
        *,
        input_shape: list[ShapeSpec],
        num_classes,
        num_anchors,
        conv_dims: list[int],
        norm="",
        prior_prob=0.01,
    ):
        """Args:
        input_shape: one per level, with equal channels.
        num_classes: number of foreground classes K.
        num_anchors: anchors per location A.
        conv_dims: output channels of each convolution of a tower.
        norm: normalisation in the towers, as :func:`detectron2.layers.get_norm` takes it. "BN" and "SyncBN"
            give every level statistics of its own.
        prior_prob: every class probability at the start of training.
        """
        super().__init__()
        self._num_features = len(input_shape)
        norm = self._norm_per_level(norm)
        towers: tuple[list[nn.Module], list[nn.Module]] = ([], [])
        in_channels = input_shape[0].channels
        for dim in conv_dims:
            for tower in towers:
                tower.append(nn.Conv2d(in_channels, dim, kernel_size=3, padding=1))
                if norm:
                    tower.append(get_norm(norm, dim))
                tower.append(nn.ReLU())
            in_channels = dim
        self.cls_subnet, self.bbox_subnet = (nn.Sequential(*tower) for tower in towers)
        self.cls_score = nn.Conv2d(in_channels, num_anchors * num_classes, kernel_size=3, padding=1)
        self.bbox_pred = nn.Conv2d(in_channels, num_anchors * 4, kernel_size=3, padding=1)

        # `modules()` meets the layers in the order in which they were set above.
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)
        # sigmoid(bias) == prior_prob
        nn.init.constant_(self.cls_score.bias, -math.log((1 - prior_prob) / prior_prob))

    def _norm_per_level(self, norm):
        """Replace batch norms whose statistics the levels would share by one per level."""
        per_level = {"BN": nn.BatchNorm2d, "SyncBN": nn.SyncBatchNorm}
        if isinstance(norm, str) and norm in per_level:
            logger.info(f"RetinaNetHead: {norm} with statistics of its own for each of {self._num_features} levels.")
            bn_class = per_level[norm]
            return lambda channels: CycleBatchNormList(self._num_features, bn_class, num_features=channels)
        if isinstance(get_norm(norm, 32), _BatchNorm):
            logger.warning(f"RetinaNetHead: norm={norm} shares its batch statistics between levels of unlike scale.")
        return norm

    @classmethod
    def from_config(cls, cfg, input_shape: list[ShapeSpec]):
        retina = cfg.MODEL.RETINANET
        anchors_per_level = set(build_anchor_generator(cfg, input_shape).num_cell_anchors)
        assert len(anchors_per_level) == 1, (
            f"All levels share one head and need the same number of anchors, not {sorted(anchors_per_level)}."
        )
        return dict(
            input_shape=input_shape,
            num_classes=retina.NUM_CLASSES,
            num_anchors=anchors_per_level.pop(),
            conv_dims=retina.NUM_CONVS * [input_shape[0].channels],
            norm=retina.NORM,
            prior_prob=retina.PRIOR_PROB,
        )

    def forward(self, features: list[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Predict from the (N, C, H_l, W_l) feature maps, finest first.

        Returns:
            per level (N, A * K, H_l, W_l) class logits and (N, A * 4, H_l, W_l) box deltas.
        """
        assert len(features) == self._num_features, f"{len(features)} levels; the head has {self._num_features}."
        logits, deltas = [], []
        for level in features:
            logits.append(self.cls_score(self.cls_subnet(level)))
            deltas.append(self.bbox_pred(self.bbox_subnet(level)))
        return logits, deltas
