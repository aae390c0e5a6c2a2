"""FCOS (arXiv:1904.01355): one prediction per location, with a centerness score."""

import torch
from torch import nn
from torch.nn import functional as F

from detectron2.layers import ShapeSpec
from detectron2.structures import Boxes, ImageList, Instances, pairwise_point_box_distance
from detectron2.utils.events import get_event_storage

from ..anchor_generator import DefaultAnchorGenerator
from ..backbone import Backbone
from ..box_regression import Box2BoxTransformLinear, _dense_box_regression_loss
from .dense_detector import DenseDetector
from .retinanet import RetinaNetHead, decode_and_suppress, focal_loss_of_labels

__all__ = ["FCOS"]


class FCOS(DenseDetector):
    """Anchor-free one-stage detector.

    Each location is a square anchor of the size of its level's stride; R below counts them over all levels.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        head: nn.Module,
        head_in_features: list[str] | None = None,
        box2box_transform=None,
        num_classes,
        center_sampling_radius: float = 1.5,
        focal_loss_alpha=0.25,
        focal_loss_gamma=2.0,
        test_score_thresh=0.2,
        test_topk_candidates=1000,
        test_nms_thresh=0.6,
        max_detections_per_image=100,
        pixel_mean,
        pixel_std,
    ):
        """Args:
        backbone: see :class:`DenseDetector`.
        head: predicts per level class logits, box deltas and centerness, as :class:`FCOSHead` does.
        head_in_features: see :class:`DenseDetector`.
        box2box_transform: translates between boxes and deltas; by default distances to the four sides in
            units of the stride.
        num_classes: number of foreground classes K.
        center_sampling_radius: a location is positive only within that many strides of the box's centre.
        focal_loss_alpha: weight of positives against negatives.
        focal_loss_gamma: how much easy examples are damped.
        test_score_thresh: a detection's score must exceed this.
        test_topk_candidates: number of candidates per level that go into NMS.
        test_nms_thresh: a box goes when its IoU with a better one of its class exceeds this.
        max_detections_per_image: how many are returned.
        pixel_mean: see :class:`DenseDetector`.
        pixel_std: see :class:`DenseDetector`.
        """
        super().__init__(backbone, head, head_in_features, pixel_mean=pixel_mean, pixel_std=pixel_std)
        shapes = backbone.output_shape()
        strides = [shapes[name].stride for name in self.head_in_features]
        self.anchor_generator = DefaultAnchorGenerator(
            sizes=[[stride] for stride in strides], aspect_ratios=[1.0], strides=strides
        )
        self.box2box_transform = (
            Box2BoxTransformLinear(normalize_by_size=True) if box2box_transform is None else box2box_transform
        )
        self.num_classes = num_classes
        self.center_sampling_radius = float(center_sampling_radius)
        self.focal_loss_gamma = focal_loss_gamma
        self.focal_loss_alpha = focal_loss_alpha
        self.max_detections_per_image = max_detections_per_image
        self.test_nms_thresh = test_nms_thresh
        self.test_topk_candidates = test_topk_candidates
        self.test_score_thresh = test_score_thresh

    def forward_training(self, images, features, predictions, gt_instances):
        """Label the locations and compute the losses."""
        dims = [self.num_classes, 4, 1]
        logits, deltas, centerness = self._transpose_dense_predictions(predictions, dims)
        anchors = self.anchor_generator(features)
        labels, matched_boxes = self.label_anchors(anchors, gt_instances)
        return self.losses(anchors, logits, labels, deltas, matched_boxes, centerness)

    @torch.no_grad()
    def _match_anchors(self, gt_boxes: Boxes, anchors: list[Boxes]) -> torch.Tensor:
        """Rate how well each location suits each ground-truth box.

        Returns:
            (M, R) for M boxes: 0 where the location must not predict the box, else larger for smaller boxes.
        """
        per_level = [len(x) for x in anchors]
        anchors = Boxes.cat(anchors)
        centers = anchors.get_centers()
        strides = anchors.tensor[:, 2] - anchors.tensor[:, 0]

        # (M, R, 4): left, top, right, bottom
        distances = pairwise_point_box_distance(centers, gt_boxes).permute(1, 0, 2)
        offsets = (centers[None] - gt_boxes.get_centers()[:, None]).abs()
        is_central = offsets.amax(dim=2) < self.center_sampling_radius * strides
        is_inside = distances.amin(dim=2) > 0

        # Each level takes boxes of its own range of sizes; the first has no lower, the last no upper end.
        smallest, largest = 4 * strides, 8 * strides
        smallest[: per_level[0]] = 0
        largest[len(largest) - per_level[-1] :] = float("inf")
        reach = distances.amax(dim=2)
        is_in_range = (reach > smallest) & (reach < largest)

        is_match = is_central & is_inside & is_in_range
        return is_match.float() * (1e8 - gt_boxes.area()[:, None])

    @torch.no_grad()
    def label_anchors(self, anchors: list[Boxes], gt_instances: list[Instances]):
        """Give each location the smallest box that it may predict.

        Returns:
            per image (R,) labels in [0, K], K = background, none ignored; and per image the (R, 4) matched
            boxes, arbitrary for background.
        """
        all_labels, all_boxes = [], []
        for target in gt_instances:
            if len(target) > 0:
                quality, matched = self._match_anchors(target.gt_boxes, anchors).max(dim=0)
                is_background = quality < 1e-5
                # Background takes the first box.
                matched = matched.masked_fill(is_background, 0)
                labels = target.gt_classes[matched].masked_fill(is_background, self.num_classes)
                boxes = target.gt_boxes.tensor[matched]
            else:
                boxes = torch.zeros_like(Boxes.cat(anchors).tensor)
                labels = torch.full((len(boxes),), self.num_classes, dtype=torch.int64, device=boxes.device)
            all_labels.append(labels)
            all_boxes.append(boxes)
        return all_labels, all_boxes

    def losses(self, anchors, pred_logits, gt_labels, pred_anchor_deltas, gt_boxes, pred_centerness):
        """Compute `loss_fcos_cls` (focal), `loss_fcos_loc` (GIoU) and `loss_fcos_ctr`, each per positive location.

        Logs `num_pos_anchors`.

        Args:
            anchors: Boxes per level.
            pred_logits: per level (N, R_l, K).
            gt_labels: per image (R,), see :meth:`label_anchors`.
            pred_anchor_deltas: per level (N, R_l, 4).
            gt_boxes: per image (R, 4), see :meth:`label_anchors`.
            pred_centerness: per level (N, R_l, 1) logits.
        """
        labels = torch.stack(gt_labels)
        is_positive = (labels >= 0) & (labels != self.num_classes)
        num_positive = is_positive.sum().item()
        get_event_storage().put_scalar("num_pos_anchors", num_positive / len(gt_labels))
        normalizer = self._ema_update("loss_normalizer", max(num_positive, 1), initial_value=300)

        logits = torch.cat(pred_logits, dim=1)
        loss_cls = focal_loss_of_labels(logits, labels, self.num_classes, self.focal_loss_alpha, self.focal_loss_gamma)
        loss_loc = _dense_box_regression_loss(
            anchors, self.box2box_transform, pred_anchor_deltas, gt_boxes, is_positive, box_reg_loss_type="giou"
        )
        centerness = torch.cat(pred_centerness, dim=1).squeeze(dim=2)
        targets = self.compute_ctrness_targets(anchors, gt_boxes)
        loss_ctr = F.binary_cross_entropy_with_logits(centerness[is_positive], targets[is_positive], reduction="sum")
        return {
            "loss_fcos_cls": loss_cls / normalizer,
            "loss_fcos_loc": loss_loc / normalizer,
            "loss_fcos_ctr": loss_ctr / normalizer,
        }

    def compute_ctrness_targets(self, anchors: list[Boxes], gt_boxes: list[torch.Tensor]) -> torch.Tensor:
        """Compute sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)) of each location in its matched box.

        Returns:
            (N, R); 1 in the centre of the box, 0 at its border, meaningless outside.
        """
        all_anchors = Boxes.cat(anchors).tensor
        deltas = torch.stack([self.box2box_transform.get_deltas(all_anchors, x) for x in gt_boxes])
        left, top, right, bottom = deltas.unbind(dim=2)
        horizontal = torch.minimum(left, right) / torch.maximum(left, right)
        vertical = torch.minimum(top, bottom) / torch.maximum(top, bottom)
        return (horizontal * vertical).sqrt()

    def forward_inference(
        self, images: ImageList, features: list[torch.Tensor], predictions: list[list[torch.Tensor]]
    ) -> list[Instances]:
        """Decode the detections of every image; a score is the geometric mean of class score and centerness."""
        dims = [self.num_classes, 4, 1]
        logits, deltas, centerness = self._transpose_dense_predictions(predictions, dims)
        anchors = self.anchor_generator(features)
        results = []
        for i, image_size in enumerate(images.image_sizes):
            scores = [(x[i].sigmoid() * y[i].sigmoid()).sqrt() for x, y in zip(logits, centerness, strict=True)]
            results.append(self.inference_single_image(anchors, scores, [x[i] for x in deltas], image_size))
        return results

    def inference_single_image(
        self,
        anchors: list[Boxes],
        box_cls: list[torch.Tensor],
        box_delta: list[torch.Tensor],
        image_size: tuple[int, int],
    ) -> Instances:
        """Decode one image, then apply NMS per class; see :meth:`RetinaNet.inference_single_image`."""
        return decode_and_suppress(self, anchors, box_cls, box_delta, image_size)


class FCOSHead(RetinaNetHead):
    """:class:`RetinaNetHead` with one anchor per location and a centerness prediction on the box tower."""

    def __init__(self, *, input_shape: list[ShapeSpec], conv_dims: list[int], **kwargs):
        """Args:
        input_shape: one per level.
        conv_dims: output channels of each convolution of a tower.
        kwargs: for :class:`RetinaNetHead`.
        """
        super().__init__(input_shape=input_shape, conv_dims=conv_dims, num_anchors=1, **kwargs)
        self.ctrness = nn.Conv2d(conv_dims[-1], 1, kernel_size=3, padding=1)
        nn.init.normal_(self.ctrness.weight, std=0.01)
        nn.init.zeros_(self.ctrness.bias)

    def forward(self, features: list[torch.Tensor]):
        """Predict from the (N, C, H_l, W_l) feature maps, finest first.

        Returns:
            per level (N, K, H_l, W_l) class logits, (N, 4, H_l, W_l) box deltas, (N, 1, H_l, W_l) centerness
            logits.
        """
        assert len(features) == self._num_features, f"{len(features)} levels; the head has {self._num_features}."
        logits, deltas, centerness = [], [], []
        for level in features:
            box_features = self.bbox_subnet(level)
            logits.append(self.cls_score(self.cls_subnet(level)))
            deltas.append(self.bbox_pred(box_features))
            centerness.append(self.ctrness(box_features))
        return logits, deltas, centerness
