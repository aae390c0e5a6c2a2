"""Cascade R-CNN: a sequence of box heads, each refining the boxes of the one before."""

import torch
from torch import nn

from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.structures import Boxes, Instances, pairwise_iou
from detectron2.utils.events import get_event_storage

from ..box_regression import Box2BoxTransform
from ..matcher import Matcher
from ..poolers import ROIPooler
from .box_head import build_box_head
from .fast_rcnn import FastRCNNOutputLayers, fast_rcnn_inference
from .roi_heads import ROI_HEADS_REGISTRY, StandardROIHeads, _build_pooler, _common_channels


class _ScaleGradient(torch.autograd.Function):
    """Identity whose gradient is multiplied by a factor."""

    @staticmethod
    def forward(ctx, tensor, factor):
        ctx.factor = factor
        return tensor

    @staticmethod
    def backward(ctx, grad_output):
        return ctx.factor * grad_output, None


@ROI_HEADS_REGISTRY.register()
class CascadeROIHeads(StandardROIHeads):
    """:class:`StandardROIHeads` with several box stages of rising IoU thresholds (Cascade R-CNN, arXiv:1712.00726).

    The mask head trains on the proposals of the first stage and runs on the final detections.
    """

    @configurable
    def __init__(
        self,
        *,
        box_in_features: list[str],
        box_pooler: ROIPooler,
        box_heads: list[nn.Module],
        box_predictors: list[nn.Module],
        proposal_matchers: list[Matcher],
        **kwargs,
    ):
        """Args:
        box_in_features: names of the feature maps that all stages pool from.
        box_pooler: pools them.
        box_heads: one per stage.
        box_predictors: one per stage.
        proposal_matchers: one per stage; the first labels the proposals, the others the boxes predicted by
            the stage before.
        kwargs: for :class:`StandardROIHeads`, without `proposal_matcher`.
        """
        assert "proposal_matcher" not in kwargs, (
            "A cascade takes one matcher per stage: proposal_matchers=[...], not proposal_matcher=."
        )
        self.num_cascade_stages = len(box_heads)
        for name, parts in (("box_predictors", box_predictors), ("proposal_matchers", proposal_matchers)):
            assert len(parts) == len(box_heads), f"{len(parts)} {name} for {len(box_heads)} box_heads."
        super().__init__(
            box_in_features=box_in_features,
            box_pooler=box_pooler,
            box_head=nn.ModuleList(box_heads),
            box_predictor=nn.ModuleList(box_predictors),
            proposal_matcher=proposal_matchers[0],
            **kwargs,
        )
        self.proposal_matchers = proposal_matchers

    @classmethod
    def from_config(cls, cfg, input_shape):
        args = super().from_config(cfg, input_shape)
        del args["proposal_matcher"]
        return args

    @classmethod
    def _init_box_head(cls, cfg, input_shape):
        head, cascade = cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.ROI_BOX_CASCADE_HEAD
        assert head.CLS_AGNOSTIC_BBOX_REG, "A cascade needs MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG=True."
        assert len(cascade.IOUS) == len(cascade.BBOX_REG_WEIGHTS), (
            "MODEL.ROI_BOX_CASCADE_HEAD: IOUS and BBOX_REG_WEIGHTS need one entry per stage."
        )
        assert cascade.IOUS[0] == cfg.MODEL.ROI_HEADS.IOU_THRESHOLDS[0], (
            "MODEL.ROI_BOX_CASCADE_HEAD.IOUS[0] and MODEL.ROI_HEADS.IOU_THRESHOLDS[0] are the same threshold."
        )
        in_features = cfg.MODEL.ROI_HEADS.IN_FEATURES
        channels = _common_channels(in_features, input_shape)
        side = head.POOLER_RESOLUTION
        args = dict(
            box_in_features=in_features,
            box_pooler=_build_pooler(head, in_features, input_shape),
            box_heads=[],
            box_predictors=[],
            proposal_matchers=[],
        )
        for iou, weights in zip(cascade.IOUS, cascade.BBOX_REG_WEIGHTS, strict=True):
            box_head = build_box_head(cfg, ShapeSpec(channels=channels, height=side, width=side))
            transform = Box2BoxTransform(weights=weights)
            predictor = FastRCNNOutputLayers(cfg, box_head.output_shape, box2box_transform=transform)
            args["box_heads"].append(box_head)
            args["box_predictors"].append(predictor)
            args["proposal_matchers"].append(Matcher([iou], [0, 1], allow_low_quality_matches=False))
        return args

    def forward(self, images, features, proposals, targets=None):
        """See :meth:`ROIHeads.forward`; training returns the proposals sampled for the first stage."""
        if not self.training:
            return super().forward(images, features, proposals)
        proposals = self.label_and_sample_proposals(proposals, targets)
        losses = self._forward_box(features, proposals, targets)
        losses.update(self._forward_mask(features, proposals))
        losses.update(self._forward_keypoint(features, proposals))
        return proposals, losses

    def _forward_box(self, features, proposals, targets=None):
        """Run all stages.

        Training returns the losses as `<name>_stage<k>` and logs each stage below `stage<k>/`. Inference averages
        the class probabilities over the stages and takes the boxes of the last one.
        """
        levels = [features[name] for name in self.box_in_features]
        image_sizes = [x.image_size for x in proposals]
        losses, probabilities, boxes = {}, [], None
        for stage, predictor in enumerate(self.box_predictor):
            if stage > 0:
                proposals = self._create_proposals_from_boxes(boxes, image_sizes)
                if self.training:
                    proposals = self._match_and_label_boxes(proposals, stage, targets)
            predictions = self._run_stage(levels, proposals, stage)
            boxes = predictor.predict_boxes(predictions, proposals)
            if self.training:
                with get_event_storage().name_scope(f"stage{stage}"):
                    stage_losses = predictor.losses(predictions, proposals)
                losses.update((f"{name}_stage{stage}", value) for name, value in stage_losses.items())
            else:
                probabilities.append(predictor.predict_probs(predictions, proposals))
        if self.training:
            return losses

        scores = [sum(of_stages) * (1.0 / len(of_stages)) for of_stages in zip(*probabilities, strict=True)]
        last = self.box_predictor[-1]
        detections, _ = fast_rcnn_inference(
            boxes,
            scores,
            image_sizes,
            score_thresh=last.test_score_thresh,
            nms_thresh=last.test_nms_thresh,
            topk_per_image=last.test_topk_per_image,
        )
        return detections

    @torch.no_grad()
    def _match_and_label_boxes(
        self, proposals: list[Instances], stage: int, targets: list[Instances]
    ) -> list[Instances]:
        """Set `gt_classes` and `gt_boxes` of the proposals by the matcher of a stage; nothing is sampled.

        Logs `stage<k>/roi_head/num_fg_samples` and `.../num_bg_samples`, averaged over the images.
        """
        foreground_counts = []
        for x, target in zip(proposals, targets, strict=True):
            iou = pairwise_iou(target.gt_boxes, x.proposal_boxes)
            matched_idxs, labels = self.proposal_matchers[stage](iou)
            if len(target) > 0:
                x.gt_classes = target.gt_classes[matched_idxs].masked_fill(labels == 0, self.num_classes)
                x.gt_boxes = target.gt_boxes[matched_idxs]
            else:
                x.gt_classes = torch.full_like(matched_idxs, self.num_classes)
                x.gt_boxes = Boxes(torch.zeros_like(x.proposal_boxes.tensor))
            foreground_counts.append((labels == 1).sum())

        # One transfer for the whole batch: the device is waited for once.
        num_foreground = sum(torch.stack(foreground_counts).tolist())
        num_background = sum(len(x) for x in proposals) - num_foreground
        storage = get_event_storage()
        storage.put_scalar(f"stage{stage}/roi_head/num_fg_samples", num_foreground / len(proposals))
        storage.put_scalar(f"stage{stage}/roi_head/num_bg_samples", num_background / len(proposals))
        return proposals

    def _run_stage(self, features: list[torch.Tensor], proposals: list[Instances], stage: int):
        """Return what the box predictor of a stage predicts for the proposals."""
        pooled = self.box_pooler(features, [x.proposal_boxes for x in proposals])
        if self.training:
            # The stage losses are summed; the features get the gradient of their mean.
            pooled = _ScaleGradient.apply(pooled, 1.0 / self.num_cascade_stages)
        return self.box_predictor[stage](self.box_head[stage](pooled))

    def _create_proposals_from_boxes(
        self, boxes: list[torch.Tensor], image_sizes: list[tuple[int, int]]
    ) -> list[Instances]:
        """Make proposals of predicted (R_i, 4) boxes: detached, clipped, in training without empty ones.

        Inference keeps the empty ones, since the scores of all stages are averaged row by row.
        """
        proposals = []
        for boxes_i, image_size in zip(boxes, image_sizes, strict=True):
            clipped = Boxes(boxes_i.detach())
            clipped.clip(image_size)
            if self.training:
                clipped = clipped[clipped.nonempty()]
            proposals.append(Instances(image_size, proposal_boxes=clipped))
        return proposals
