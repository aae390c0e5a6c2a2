"""FCOS (arXiv:1904.01355, arXiv:2006.09214) that mask heads can build on.

With its defaults it is detectron2's FCOS: the same weights, losses and detections. What the papers of this collection
need beyond that are options, and the seams of a training step: `assign` -> `detection_losses` and `positives`.
"""

from collections.abc import Sequence

import torch
from detectron2.layers import batched_nms
from detectron2.modeling.meta_arch import fcos as detectron2_fcos
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import get_event_storage
from fvcore.nn import giou_loss
from torch.nn import functional as F

from instseg_d2.layers.focal_loss import focal_loss_of_labels
from instseg_d2.layers.ranks import mean_over_ranks
from instseg_d2.modeling.ignored_regions import inside_ignored

from .head import FCOSHead
from .targets import CenteredBoxes, LocationTargets, mask_or_box_centers

CENTER_SAMPLINGS = ("box", "mass")
NORMALIZERS = ("local_ema", "mean", "mean_ema")
THRESHOLDS_ON = ("score", "product", "class")
EMA_MOMENTUM = 0.9

__all__ = ["FCOS", "FCOSHead"]


class FCOS(detectron2_fcos.FCOS):
    """detectron2's `FCOS` with the options of FCOS's own release, and with seams for instance-wise mask heads.

    A detector with a mask head trains in these steps, of which `forward_training` is the first and the second::

        predictions = fcos.head(features)
        targets = fcos.assign(fcos.anchor_generator(features), gt_instances)
        losses = fcos.detection_losses(predictions, targets)
        positives = fcos.positives(predictions, targets)  # locations, levels, ground truth and extra vectors

    Targets and predictions may come from two networks: a teacher gives its own outputs at the positives of a student.

    Naming: N images, R locations over all levels, R_l of level l, K classes, M ground-truth objects of an image.

    Args:
        center_sampling: positives lie around the center of the "box", or the center of "mass" of the mask, where
            there is one to look at (see `mask_or_box_centers`); inside of the box in any case.
        normalizer: what the losses are divided by: "local_ema", detectron2's moving average (from 300) of the number
            of positives of this process; "mean", the number of positives averaged over all processes, at least 1;
            "mean_ema", the moving average (from 100) of that mean, kept in the buffer `positives_average` and so in
            checkpoints.
        centerness_weighted_boxes: weigh the GIoU loss of a positive by its centerness target, and divide by the sum
            of the targets, averaged over all processes, in place of `normalizer`.
        box_loss_weight: factor on `loss_fcos_loc`.
        test_thresh_on: what must exceed `test_score_thresh` at a location: "score", the square root of class
            probability times centerness; "product", the same without the root (CondInst, BoxInst); "class", the class
            probability alone. The score of a detection is the root in any case.
        keep_locations: detections also carry `locations`, `fpn_levels` and, if the head has an extra output, `extra`;
            see `inference_single_image`. Without it they have detectron2's fields only.
        kwargs: for detectron2's `FCOS`: `backbone`, `head`, `head_in_features`, `num_classes`, `pixel_mean`,
            `pixel_std`, `box2box_transform`, `center_sampling_radius` (strides), `focal_loss_alpha`,
            `focal_loss_gamma`, `test_score_thresh`, `test_topk_candidates`, `test_nms_thresh`,
            `max_detections_per_image`.

    Raises:
        ValueError: an option has a value that it does not know.
    """

    def __init__(
        self,
        *,
        center_sampling: str = "box",
        normalizer: str = "local_ema",
        centerness_weighted_boxes: bool = False,
        box_loss_weight: float = 1.0,
        test_thresh_on: str = "score",
        keep_locations: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        _check("center_sampling", center_sampling, CENTER_SAMPLINGS)
        _check("normalizer", normalizer, NORMALIZERS)
        _check("test_thresh_on", test_thresh_on, THRESHOLDS_ON)
        self.center_sampling = center_sampling
        self.normalizer = normalizer
        self.centerness_weighted_boxes = centerness_weighted_boxes
        self.box_loss_weight = box_loss_weight
        self.test_thresh_on = test_thresh_on
        self.keep_locations = keep_locations
        if normalizer == "mean_ema":
            self.register_buffer("positives_average", torch.tensor(100.0))

    def sampling_centers(self, instances: Instances) -> torch.Tensor:
        """The points (M, 2), xy pixels, around which the locations of the M >= 1 objects of an image are sampled.

        Raises:
            DatasetError: `center_sampling="mass"`, and masks are missing.
        """
        if self.center_sampling == "mass":
            return mask_or_box_centers(instances)
        return instances.gt_boxes.get_centers()

    @torch.no_grad()
    def match_locations(self, anchors: list[Boxes], instances: Instances) -> torch.Tensor:
        """Give each location of an image the smallest object that it may predict.

        Args:
            anchors: per level.
            instances: ground truth of one image, perhaps empty.

        Returns:
            (R,) int64 index of the object, -1 for background.
        """
        if len(instances) == 0:
            device = anchors[0].device
            return torch.full((sum(len(level) for level in anchors),), -1, dtype=torch.int64, device=device)
        boxes = CenteredBoxes(instances.gt_boxes.tensor, self.sampling_centers(instances))
        # (M, R): 0 where a location may not predict an object, else larger for smaller objects.
        quality, matched = self._match_anchors(boxes, anchors).max(dim=0)
        return matched.masked_fill(quality < 1e-5, -1)

    @torch.no_grad()
    def assign(self, anchors: list[Boxes], gt_instances: Sequence[Instances]) -> LocationTargets:
        """Decide what every location of the batch has to predict.

        Args:
            anchors: per level, from `anchor_generator`.
            gt_instances: per image, with `gt_boxes` and `gt_classes`; for `center_sampling="mass"` with `gt_masks`.
                Locations inside a box of `gt_ignored`, where an image has these, are background to no loss.
        """
        matched, labels, boxes = [], [], []
        for instances in gt_instances:
            index = self.match_locations(anchors, instances)
            # A last row for background, which index -1 picks.
            background = instances.gt_classes.new_full((1,), self.num_classes)
            classes = torch.cat([instances.gt_classes, background])[index]
            if instances.has("gt_ignored"):
                ignored = inside_ignored(Boxes.cat(anchors).get_centers(), instances)
                classes = classes.masked_fill(ignored & (index < 0), -1)
            labels.append(classes)
            corners = instances.gt_boxes.tensor
            boxes.append(torch.cat([corners, corners.new_zeros(1, 4)])[index])
            matched.append(index)
        sizes = [instances.image_size for instances in gt_instances]
        return LocationTargets(anchors, torch.stack(matched), torch.stack(labels), torch.stack(boxes), sizes)

    def label_anchors(self, anchors: list[Boxes], gt_instances: Sequence[Instances]):
        """Labels and matched boxes of `assign`, each a list over the images, as detectron2's method gives them."""
        targets = self.assign(anchors, gt_instances)
        return list(targets.labels), list(targets.boxes)

    def forward_training(self, images, features, predictions, gt_instances) -> dict[str, torch.Tensor]:
        """Label the locations and compute the losses, see `losses`."""
        targets = self.assign(self.anchor_generator(features), gt_instances)
        return self.detection_losses(predictions, targets)

    def detection_losses(
        self, predictions: Sequence[list[torch.Tensor]], targets: LocationTargets
    ) -> dict[str, torch.Tensor]:
        """The losses of the head's output (see `FCOSHead.forward`) against the targets, see `losses`."""
        logits, deltas, centerness = self._flatten(predictions)
        return self.losses(targets.anchors, logits, list(targets.labels), deltas, list(targets.boxes), centerness)

    def losses(self, anchors, pred_logits, gt_labels, pred_anchor_deltas, gt_boxes, pred_centerness):
        """Compute `loss_fcos_cls` (focal), `loss_fcos_loc` (GIoU) and `loss_fcos_ctr` (binary cross entropy).

        Sums over the positives (classes: over all locations but the ignored), divided as `normalizer` and
        `centerness_weighted_boxes` say. Without positives the last two are zeros that keep the graph. Logs
        `num_pos_anchors` per image.

        Args:
            anchors: per level.
            pred_logits: per level (N, R_l, K).
            gt_labels: per image (R,), K for background, -1 for what is ignored.
            pred_anchor_deltas: per level (N, R_l, 4), strides.
            gt_boxes: per image (R, 4), xyxy pixels.
            pred_centerness: per level (N, R_l, 1) logits.
        """
        labels = torch.stack(gt_labels)
        considered = labels >= 0
        positive = (considered & (labels != self.num_classes)).nonzero(as_tuple=True)
        num_positive = len(positive[0])
        get_event_storage().put_scalar("num_pos_anchors", num_positive / len(labels))
        normalizer = self._positives_normalizer(num_positive)
        logits = torch.cat(pred_logits, dim=1)
        if not considered.all():
            logits, labels = logits[considered], labels[considered]
        loss_cls = focal_loss_of_labels(logits, labels, alpha=self.focal_loss_alpha, gamma=self.focal_loss_gamma)

        targets = self.compute_ctrness_targets(anchors, gt_boxes)[positive]
        sources = Boxes.cat(anchors).tensor[positive[1]]
        boxes = self.box2box_transform.apply_deltas(torch.cat(pred_anchor_deltas, dim=1)[positive], sources)
        loss_loc = giou_loss(boxes, torch.stack(gt_boxes)[positive], reduction="none")
        box_normalizer = normalizer
        if self.centerness_weighted_boxes:
            loss_loc = loss_loc * targets
            box_normalizer = mean_over_ranks(targets.sum()).clamp(min=1e-6)
        centerness = torch.cat(pred_centerness, dim=1).squeeze(dim=2)[positive]
        loss_ctr = F.binary_cross_entropy_with_logits(centerness, targets, reduction="sum")
        return {
            "loss_fcos_cls": loss_cls / normalizer,
            "loss_fcos_loc": loss_loc.sum() / box_normalizer * self.box_loss_weight,
            "loss_fcos_ctr": loss_ctr / normalizer,
        }

    def _positives_normalizer(self, num_positive: int) -> float | torch.Tensor:
        if self.normalizer == "local_ema":
            return self._ema_update("loss_normalizer", max(num_positive, 1), 300, EMA_MOMENTUM)
        mean = mean_over_ranks(self.pixel_mean.new_tensor(float(num_positive))).clamp(min=1)
        if self.normalizer == "mean_ema":
            self.positives_average.lerp_(mean, 1 - EMA_MOMENTUM)
            # A copy: the backward pass of this step must not see the update of the next.
            return self.positives_average.clone()
        return mean

    def positives(self, predictions: Sequence[list[torch.Tensor]], targets: LocationTargets) -> list[Instances]:
        """Collect what a mask head trains on: every location that predicts an object.

        Args:
            predictions: output of the head.
            targets: output of `assign` for feature maps of the same sizes.

        Returns:
            per image, K_i positives in the order of locations, with the fields

            - `locations` (K_i, 2) xy pixels; `fpn_levels` (K_i,) index into `head_in_features`;
            - `gt_inds` (K_i,) index within the image (`batch_gt_inds` gives the one within the batch), `gt_classes`,
              `gt_boxes`;
            - `scores` (K_i,) highest class probability times centerness, without gradient; the centerness alone if
              the head was not to classify;
            - `pred_boxes`, without gradient, not clipped;
            - `extra` (K_i, C_e) with gradient, if the head has that output, also when K_i = 0.
        """
        image, location = targets.positive_indices()
        logits, deltas, centerness, *extra = (_at_locations(levels, image, location) for levels in predictions)
        with torch.no_grad():
            scores = _widened(centerness)[:, 0].sigmoid()
            if logits.shape[1]:
                scores = scores * _widened(logits).amax(dim=1).sigmoid()
            sources = Boxes.cat(targets.anchors).tensor[location]
            boxes = self.box2box_transform.apply_deltas(_widened(deltas), sources)
        fields = {
            "locations": targets.locations[location],
            "fpn_levels": targets.levels[location],
            "gt_inds": targets.matched[image, location],
            "gt_classes": targets.labels[image, location],
            "gt_boxes": Boxes(targets.boxes[image, location]),
            "scores": scores,
            "pred_boxes": Boxes(boxes),
            **({"extra": extra[0]} if extra else {}),
        }
        ends = (targets.matched >= 0).sum(dim=1).cumsum(dim=0).tolist()
        return [
            Instances(size, **{name: value[start:end] for name, value in fields.items()})
            for size, start, end in zip(targets.image_sizes, [0, *ends[:-1]], ends, strict=True)
        ]

    def forward_inference(
        self, images: ImageList, features: list[torch.Tensor], predictions: Sequence[list[torch.Tensor]]
    ) -> list[Instances]:
        """Decode the detections of every image, in pixels of the network's input; also in training mode.

        Leaves the predictions as they are, so that losses may be computed of them as well. The result has a gradient
        unless the caller switches that off.
        """
        logits, deltas, centerness = self._flatten(predictions)
        anchors = self.anchor_generator(features)
        results = []
        for i, image_size in enumerate(images.image_sizes):
            classes = [level[i].sigmoid() for level in logits]
            products = [x * y[i].sigmoid() for x, y in zip(classes, centerness, strict=True)]
            scores = [x.sqrt() for x in products]
            tested = {"score": scores, "product": products, "class": classes}[self.test_thresh_on]
            extra = [level[i] for level in predictions[3]] if self.keep_locations and len(predictions) > 3 else None
            boxes = [level[i] for level in deltas]
            results.append(self.inference_single_image(anchors, scores, boxes, image_size, tested=tested, extra=extra))
        return results

    def inference_single_image(
        self,
        anchors: list[Boxes],
        box_cls: list[torch.Tensor],
        box_delta: list[torch.Tensor],
        image_size: tuple[int, int],
        *,
        tested: list[torch.Tensor] | None = None,
        extra: list[torch.Tensor] | None = None,
    ) -> Instances:
        """Decode one image, then apply NMS per class.

        Args:
            anchors: per level.
            box_cls: per level (R_l, K) scores.
            box_delta: per level (R_l, 4), strides.
            image_size: (height, width).
            tested: per level (R_l, K), what is compared with the threshold; the scores by default.
            extra: per level (C_e, H_l, W_l).

        Returns:
            detections with `pred_boxes`, `scores`, `pred_classes`, best first. With `keep_locations` also `locations`
            (D, 2) xy pixels of the input, `fpn_levels` (D,) index into `head_in_features`, and `extra` (D, C_e).
        """
        candidates = []
        for level, values in enumerate(zip(anchors, box_cls, tested or box_cls, box_delta, strict=True)):
            found, rows = self._decode_level(*values, image_size)
            if self.keep_locations:
                found.locations = values[0].get_centers()[rows]
                found.fpn_levels = torch.full_like(rows, level)
                if extra is not None:
                    found.extra = extra[level].flatten(1)[:, rows].T
            candidates.append(found)
        candidates = Instances.cat(candidates)
        keep = batched_nms(
            candidates.pred_boxes.tensor, candidates.scores, candidates.pred_classes, self.test_nms_thresh
        )
        return candidates[keep[: self.max_detections_per_image]]

    def _decode_level(
        self,
        anchors: Boxes,
        scores: torch.Tensor,
        tested: torch.Tensor,
        deltas: torch.Tensor,
        image_size: tuple[int, int],
    ) -> tuple[Instances, torch.Tensor]:
        """The best candidates of a level, best first, and the rows (D,) of their locations in the level."""
        rows, classes = (tested > self.test_score_thresh).nonzero(as_tuple=True)
        best, order = scores[rows, classes].topk(min(len(rows), self.test_topk_candidates))
        rows, classes = rows[order], classes[order]
        boxes = self.box2box_transform.apply_deltas(deltas[rows], anchors.tensor[rows])
        return Instances(image_size, pred_boxes=Boxes(boxes), scores=best, pred_classes=classes), rows

    def _flatten(self, predictions: Sequence[list[torch.Tensor]]) -> list[list[torch.Tensor]]:
        """Logits, deltas and centerness per level as (N, R_l, C)."""
        flat = self._transpose_dense_predictions(list(predictions[:3]), [self.num_classes, 4, 1])
        return [[_widened(level) for level in levels] for levels in flat]


def _widened(values: torch.Tensor) -> torch.Tensor:
    """At least float32: in 16 bits (autocast), pixel coordinates and sums over all locations lose their digits."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _at_locations(maps: Sequence[torch.Tensor], image: torch.Tensor, location: torch.Tensor) -> torch.Tensor:
    """Pick (K, C) vectors out of the (N, C, H_l, W_l) maps of all levels."""
    return torch.cat([level.flatten(2) for level in maps], dim=2)[image, :, location]


def _check(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name}='{value}': must be one of {known}")
