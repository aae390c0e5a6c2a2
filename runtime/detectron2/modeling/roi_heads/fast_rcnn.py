"""Fast R-CNN's outputs: class scores and box deltas per region, their losses, and the detections made of them.

Shapes: R regions in all images, R_i in image i, K foreground classes; class K is the background. Deltas are
(R, K * 4), or (R, 4) for class-agnostic regression.
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from detectron2.config import configurable
from detectron2.layers import ShapeSpec, batched_nms, cat, cross_entropy, nonzero_tuple
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import get_event_storage

from ..box_regression import Box2BoxTransform, _dense_box_regression_loss

__all__ = ["fast_rcnn_inference", "FastRCNNOutputLayers"]


def fast_rcnn_inference(
    boxes: list[torch.Tensor],
    scores: list[torch.Tensor],
    image_shapes: list[tuple[int, int]],
    score_thresh: float,
    nms_thresh: float,
    topk_per_image: int,
) -> tuple[list[Instances], list[torch.Tensor]]:
    """Turn the scored boxes of every image into detections: score threshold, NMS per class, best `topk_per_image`.

    Args:
        boxes: per image (R_i, K * 4) or (R_i, 4), xyxy absolute pixels.
        scores: per image (R_i, K + 1) probabilities.
        image_shapes: per image (height, width), to which boxes are clipped.
        score_thresh: a detection's score must exceed this.
        nms_thresh: a box goes when its IoU with a better one of its class exceeds this.
        topk_per_image: number of detections kept per image; negative: all.

    Returns:
        detections per image, best first, with `pred_boxes`, `scores` and `pred_classes`; and per image the row of
        `boxes` that each detection came from. Rows with a value that is not finite give no detection.
    """
    detections, sources = [], []
    for boxes_i, scores_i, image_shape in zip(boxes, scores, image_shapes, strict=True):
        found, source = fast_rcnn_inference_single_image(
            boxes_i, scores_i, image_shape, score_thresh, nms_thresh, topk_per_image
        )
        detections.append(found)
        sources.append(source)
    return detections, sources


def fast_rcnn_inference_single_image(
    boxes: torch.Tensor,
    scores: torch.Tensor,
    image_shape: tuple[int, int],
    score_thresh: float,
    nms_thresh: float,
    topk_per_image: int,
) -> tuple[Instances, torch.Tensor]:
    """Do the work of :func:`fast_rcnn_inference` for one image."""
    is_finite = boxes.isfinite().all(dim=1) & scores.isfinite().all(dim=1)
    # One search gives both the rows and the classes; boxes are only looked at where the score is high enough.
    candidates = (scores[:, :-1] > score_thresh) & is_finite[:, None]
    rows, classes = candidates.nonzero().unbind(dim=1)

    boxes_per_row = boxes.shape[1] // 4
    if boxes_per_row > 1:
        candidate_boxes = boxes.reshape(-1, boxes_per_row, 4)[rows, classes]
    else:
        candidate_boxes = boxes[rows]
    candidate_boxes = _clip_to_image(candidate_boxes.float(), image_shape)
    candidate_scores = scores[rows, classes]

    keep = batched_nms(candidate_boxes, candidate_scores, classes, nms_thresh)
    if topk_per_image >= 0:
        keep = keep[:topk_per_image]
    detections = Instances(
        image_shape,
        pred_boxes=Boxes(candidate_boxes[keep]),
        scores=candidate_scores[keep],
        pred_classes=classes[keep],
    )
    return detections, rows[keep]


def _clip_to_image(boxes: torch.Tensor, image_shape: tuple[int, int]) -> torch.Tensor:
    """Clip (N, 4) finite xyxy boxes; unlike :meth:`Boxes.clip` it does not wait for the device to check them."""
    height, width = image_shape
    x1, y1, x2, y2 = boxes.unbind(dim=1)
    return torch.stack((x1.clamp(0, width), y1.clamp(0, height), x2.clamp(0, width), y2.clamp(0, height)), dim=1)


def _log_classification_stats(pred_logits: torch.Tensor, gt_classes: torch.Tensor, prefix: str = "fast_rcnn") -> None:
    """Log `cls_accuracy`, and over the foreground regions `fg_cls_accuracy` and `false_negative` (called background).

    Args:
        pred_logits: (R, K + 1).
        gt_classes: (R,) labels in [0, K], or negative for ignored regions.
        prefix: first part of the event names.
    """
    num_regions = gt_classes.numel()
    if num_regions == 0:
        return
    background = pred_logits.shape[1] - 1
    predicted = pred_logits.argmax(dim=1)
    is_correct = predicted == gt_classes
    is_foreground = (gt_classes >= 0) & (gt_classes < background)
    masks = [is_correct, is_foreground, is_correct & is_foreground, is_foreground & (predicted == background)]
    # One transfer for all counts: the device is waited for once.
    num_correct, num_fg, num_fg_correct, num_missed = torch.stack(masks).sum(dim=1).tolist()

    storage = get_event_storage()
    storage.put_scalar(f"{prefix}/cls_accuracy", num_correct / num_regions)
    if num_fg > 0:
        storage.put_scalar(f"{prefix}/fg_cls_accuracy", num_fg_correct / num_fg)
        storage.put_scalar(f"{prefix}/false_negative", num_missed / num_fg)


class FastRCNNOutputLayers(nn.Module):
    """Two linear layers on a region's features: `cls_score` (K + 1 logits) and `bbox_pred` (deltas)."""

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        box2box_transform,
        num_classes: int,
        test_score_thresh: float = 0.0,
        test_nms_thresh: float = 0.5,
        test_topk_per_image: int = 100,
        cls_agnostic_bbox_reg: bool = False,
        smooth_l1_beta: float = 0.0,
        box_reg_loss_type: str = "smooth_l1",
        loss_weight: float | dict[str, float] = 1.0,
        use_fed_loss: bool = False,
        use_sigmoid_ce: bool = False,
        get_fed_loss_cls_weights: Callable | None = None,
        fed_loss_num_classes: int = 50,
    ):
        """Args:
        input_shape: shape of one region's features, or their number.
        box2box_transform: translates between boxes and deltas, as :class:`Box2BoxTransform` does.
        num_classes: K.
        test_score_thresh: see :func:`fast_rcnn_inference`.
        test_nms_thresh: see :func:`fast_rcnn_inference`.
        test_topk_per_image: see :func:`fast_rcnn_inference`.
        cls_agnostic_bbox_reg: one box per region, not one per class.
        smooth_l1_beta: where the smooth L1 loss turns from quadratic to linear; 0 is plain L1.
        box_reg_loss_type: "smooth_l1", "giou", "diou" or "ciou".
        loss_weight: factor of both losses, or factors by name ("loss_cls", "loss_box_reg"; default 1).
        use_fed_loss: federated loss: only the classes that occur, and sampled others, enter the class loss.
        use_sigmoid_ce: a binary loss per class, not a softmax over all.
        get_fed_loss_cls_weights: returns the (K,) sampling weights of the federated loss.
        fed_loss_num_classes: number of classes that enter the federated loss.
        """
        super().__init__()
        if isinstance(input_shape, int):
            input_shape = ShapeSpec(channels=input_shape)
        num_features = input_shape.channels * (input_shape.height or 1) * (input_shape.width or 1)
        boxes_per_region = 1 if cls_agnostic_bbox_reg else num_classes
        box_dim = len(box2box_transform.weights)
        self.cls_score = nn.Linear(num_features, num_classes + 1)
        self.bbox_pred = nn.Linear(num_features, boxes_per_region * box_dim)
        for layer, std in ((self.cls_score, 0.01), (self.bbox_pred, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

        self.num_classes = num_classes
        self.box2box_transform = box2box_transform
        self.test_score_thresh = test_score_thresh
        self.test_nms_thresh = test_nms_thresh
        self.test_topk_per_image = test_topk_per_image
        self.smooth_l1_beta = smooth_l1_beta
        self.box_reg_loss_type = box_reg_loss_type
        if isinstance(loss_weight, int | float):
            loss_weight = dict.fromkeys(("loss_cls", "loss_box_reg"), loss_weight)
        self.loss_weight = loss_weight
        self.use_sigmoid_ce = use_sigmoid_ce
        self.use_fed_loss = use_fed_loss
        self.fed_loss_num_classes = fed_loss_num_classes
        if use_fed_loss:
            assert use_sigmoid_ce, "The federated loss is a sigmoid loss: set use_sigmoid_ce=True."
            weights = get_fed_loss_cls_weights()
            assert len(weights) == num_classes, (
                f"The federated loss needs one sampling weight per class: {len(weights)} for {num_classes} classes."
            )
            self.register_buffer("fed_loss_cls_weights", weights)

    @classmethod
    def from_config(cls, cfg, input_shape):
        roi_heads, box_head = cfg.MODEL.ROI_HEADS, cfg.MODEL.ROI_BOX_HEAD

        def class_weights_of_training_sets() -> torch.Tensor:
            from detectron2.data.detection_utils import get_fed_loss_cls_weights

            return get_fed_loss_cls_weights(
                dataset_names=cfg.DATASETS.TRAIN,
                freq_weight_power=box_head.FED_LOSS_FREQ_WEIGHT_POWER,
            )

        return dict(
            input_shape=input_shape,
            num_classes=roi_heads.NUM_CLASSES,
            box2box_transform=Box2BoxTransform(weights=box_head.BBOX_REG_WEIGHTS),
            cls_agnostic_bbox_reg=box_head.CLS_AGNOSTIC_BBOX_REG,
            box_reg_loss_type=box_head.BBOX_REG_LOSS_TYPE,
            smooth_l1_beta=box_head.SMOOTH_L1_BETA,
            loss_weight={"loss_box_reg": box_head.BBOX_REG_LOSS_WEIGHT},
            test_score_thresh=roi_heads.SCORE_THRESH_TEST,
            test_nms_thresh=roi_heads.NMS_THRESH_TEST,
            test_topk_per_image=cfg.TEST.DETECTIONS_PER_IMAGE,
            use_sigmoid_ce=box_head.USE_SIGMOID_CE,
            use_fed_loss=box_head.USE_FED_LOSS,
            fed_loss_num_classes=box_head.FED_LOSS_NUM_CLASSES,
            get_fed_loss_cls_weights=class_weights_of_training_sets,
        )

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map (R, ...) region features to (R, K + 1) class logits and (R, K * 4) or (R, 4) box deltas."""
        x = x.flatten(start_dim=1)
        return self.cls_score(x), self.bbox_pred(x)

    def losses(self, predictions, proposals: list[Instances]) -> dict[str, torch.Tensor]:
        """Compute `loss_cls` and `loss_box_reg`, each times its weight.

        Args:
            predictions: what :meth:`forward` returned for the regions of `proposals`.
            proposals: per image, with `proposal_boxes`, `gt_classes` in [0, K], and `gt_boxes` unless the image
                has no ground truth.
        """
        logits, deltas = predictions
        if len(proposals):
            gt_classes = cat([x.gt_classes for x in proposals])
            proposal_boxes = cat([x.proposal_boxes.tensor for x in proposals])
            # An image without ground truth has background only, whose boxes never enter the loss.
            gt_boxes = cat([x.get("gt_boxes" if x.has("gt_boxes") else "proposal_boxes").tensor for x in proposals])
            assert not proposal_boxes.requires_grad, "Proposals must be detached from the graph."
        else:
            gt_classes = torch.empty(0, dtype=torch.int64, device=logits.device)
            proposal_boxes = gt_boxes = torch.empty((0, 4), device=deltas.device)
        _log_classification_stats(logits, gt_classes)

        if self.use_sigmoid_ce:
            loss_cls = self.sigmoid_cross_entropy_loss(logits, gt_classes)
        else:
            loss_cls = cross_entropy(logits, gt_classes, reduction="mean")
        loss_box_reg = self.box_reg_loss(proposal_boxes, gt_boxes, deltas, gt_classes)
        return {
            "loss_cls": loss_cls * self.loss_weight.get("loss_cls", 1.0),
            "loss_box_reg": loss_box_reg * self.loss_weight.get("loss_box_reg", 1.0),
        }

    def get_fed_loss_classes(
        self, gt_classes: torch.Tensor, num_fed_loss_classes: int, num_classes: int, weight: torch.Tensor
    ) -> torch.Tensor:
        """Choose the classes of the federated loss: those that occur, filled up with sampled ones.

        Args:
            gt_classes: (R,) labels in [0, K].
            num_fed_loss_classes: how many to return; all that occur, when those are more.
            num_classes: K.
            weight: (K,) sampling weights.
        """
        present = torch.unique(gt_classes)
        num_missing = num_fed_loss_classes - len(present)
        if num_missing <= 0:
            return present
        sampling_weight = F.pad(weight.float(), (0, 1))
        assert len(sampling_weight) == num_classes + 1, "The federated loss needs one sampling weight per class."
        sampling_weight[present] = 0
        return torch.cat([present, torch.multinomial(sampling_weight, num_missing, replacement=False)])

    def sigmoid_cross_entropy_loss(self, pred_class_logits: torch.Tensor, gt_classes: torch.Tensor) -> torch.Tensor:
        """Binary cross entropy summed over the foreground classes, averaged over the regions.

        Args:
            pred_class_logits: (R, K + 1); the background's logit is not used.
            gt_classes: (R,) labels in [0, K].
        """
        if pred_class_logits.numel() == 0:
            return pred_class_logits.sum() * 0
        num_regions, num_classes = len(pred_class_logits), pred_class_logits.shape[1] - 1
        one_hot = torch.zeros_like(pred_class_logits).scatter_(1, gt_classes[:, None], 1)
        loss = F.binary_cross_entropy_with_logits(
            pred_class_logits[:, :num_classes], one_hot[:, :num_classes], reduction="none"
        )
        if self.use_fed_loss:
            classes = self.get_fed_loss_classes(
                gt_classes, self.fed_loss_num_classes, num_classes, self.fed_loss_cls_weights
            )
            takes_part = loss.new_zeros(num_classes + 1).index_fill_(0, classes, 1)
            loss = loss * takes_part[:num_classes]
        return loss.sum() / num_regions

    def box_reg_loss(
        self,
        proposal_boxes: torch.Tensor,
        gt_boxes: torch.Tensor,
        pred_deltas: torch.Tensor,
        gt_classes: torch.Tensor,
    ) -> torch.Tensor:
        """Box regression loss of the foreground regions, each with the deltas of its true class.

        The sum is divided by the number of *all* regions, so that a foreground region weighs the same whether few
        or many others were sampled.

        Args:
            proposal_boxes: (R, 4) xyxy absolute pixels.
            gt_boxes: (R, 4) the matched ground truth; arbitrary for background.
            pred_deltas: (R, K * 4) or (R, 4).
            gt_classes: (R,) labels in [0, K], or negative for ignored regions.
        """
        box_dim = proposal_boxes.shape[1]
        (foreground,) = nonzero_tuple((gt_classes >= 0) & (gt_classes < self.num_classes))
        if pred_deltas.shape[1] > box_dim:
            deltas = pred_deltas.view(-1, self.num_classes, box_dim)[foreground, gt_classes[foreground]]
        else:
            deltas = pred_deltas[foreground]
        total = _dense_box_regression_loss(
            [proposal_boxes[foreground]],
            self.box2box_transform,
            [deltas[None]],
            [gt_boxes[foreground]],
            ...,
            self.box_reg_loss_type,
            self.smooth_l1_beta,
        )
        return total / max(gt_classes.numel(), 1.0)

    def inference(
        self, predictions: tuple[torch.Tensor, torch.Tensor], proposals: list[Instances]
    ) -> tuple[list[Instances], list[torch.Tensor]]:
        """Make detections; the arguments are those of :meth:`losses`, the result :func:`fast_rcnn_inference`'s."""
        return fast_rcnn_inference(
            self.predict_boxes(predictions, proposals),
            self.predict_probs(predictions, proposals),
            [x.image_size for x in proposals],
            score_thresh=self.test_score_thresh,
            nms_thresh=self.test_nms_thresh,
            topk_per_image=self.test_topk_per_image,
        )

    def predict_boxes_for_gt_classes(self, predictions, proposals: list[Instances]):
        """Return per image the (R_i, 4) boxes of the regions' true classes (any class for background)."""
        if not len(proposals):
            return []
        boxes = self._decode(predictions[1], proposals)
        box_dim = proposals[0].proposal_boxes.tensor.shape[1]
        num_classes = boxes.shape[1] // box_dim
        if num_classes > 1:
            # Background and ignored regions have no box of their own.
            classes = torch.cat([x.gt_classes for x in proposals]).clamp(0, num_classes - 1)
            rows = torch.arange(len(boxes), device=boxes.device)
            boxes = boxes.view(-1, num_classes, box_dim)[rows, classes]
        return boxes.split([len(x) for x in proposals])

    def predict_boxes(self, predictions: tuple[torch.Tensor, torch.Tensor], proposals: list[Instances]):
        """Return per image the (R_i, K * 4) or (R_i, 4) decoded boxes, xyxy absolute pixels, not clipped."""
        if not len(proposals):
            return []
        return self._decode(predictions[1], proposals).split([len(x) for x in proposals])

    def predict_probs(self, predictions: tuple[torch.Tensor, torch.Tensor], proposals: list[Instances]):
        """Return per image the (R_i, K + 1) class probabilities."""
        logits, _ = predictions
        probabilities = logits.sigmoid() if self.use_sigmoid_ce else logits.softmax(dim=-1)
        return probabilities.split([len(x) for x in proposals])

    def _decode(self, deltas: torch.Tensor, proposals: list[Instances]) -> torch.Tensor:
        return self.box2box_transform.apply_deltas(deltas, cat([x.proposal_boxes.tensor for x in proposals]))
