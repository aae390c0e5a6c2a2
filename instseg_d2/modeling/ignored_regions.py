"""Regions that are neither object nor background in training: the objects of few-shot images that were not drawn.

Ground truth has their boxes as `gt_ignored`, see `InstanceMapper`; without that field, all here is as in detectron2.
"""

import torch
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import StandardROIHeads
from detectron2.structures import Boxes, Instances, pairwise_ioa, pairwise_iou

# What part of an anchor or a proposal lies in an ignored box, for it to be ignored too.
IGNORED_PART = 0.5


def inside_ignored(points: torch.Tensor, truth: Instances) -> torch.Tensor:
    """Which points of an image lie inside an ignored box; its edges are outside, as in FCOS.

    Args:
        points: (P, 2) xy pixels.
        truth: ground truth of the image, with `gt_ignored`.

    Returns:
        (P,) bool.
    """
    boxes = truth.gt_ignored.tensor
    after_start, before_end = points[:, None] > boxes[:, :2], points[:, None] < boxes[:, 2:]
    return (after_start & before_end).all(dim=2).any(dim=1)


def mostly_ignored(boxes: Boxes, truth: Instances) -> torch.Tensor:
    """Which boxes of an image lie in one ignored box with `IGNORED_PART` of their area or more.

    Args:
        boxes: (R,) xyxy pixels.
        truth: ground truth of the image, with `gt_ignored`.

    Returns:
        (R,) bool.
    """
    return (pairwise_ioa(Boxes(truth.gt_ignored.tensor), boxes) >= IGNORED_PART).any(dim=0)


class IgnoringRPN(RPN):
    """detectron2's RPN whose anchors in ignored boxes are no negatives.

    They leave the sample that the losses look at, which is then smaller; what is divided by stays the same.
    """

    @torch.no_grad()
    def label_and_sample_anchors(
        self, anchors: list[Boxes], gt_instances: list[Instances]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """As the parent's; -1, not 0, are the labels of anchors that are no positives and mostly in an ignored box."""
        labels, boxes = super().label_and_sample_anchors(anchors, gt_instances)
        together = Boxes.cat(anchors)
        for index, truth in enumerate(gt_instances):
            if truth.has("gt_ignored"):
                ignored = (labels[index] == 0) & mostly_ignored(together, truth)
                labels[index] = labels[index].masked_fill(ignored, -1)
        return labels, boxes


class IgnoringROIHeads(StandardROIHeads):
    """detectron2's heads of Faster and Mask R-CNN, which do not sample background from ignored boxes."""

    @torch.no_grad()
    def label_and_sample_proposals(self, proposals: list[Instances], targets: list[Instances]) -> list[Instances]:
        """As the parent's, of the proposals that show an object or do not lie mostly in an ignored box."""
        kept = [
            found[self._matches_object(found, truth) | ~mostly_ignored(found.proposal_boxes, truth)]
            if truth.has("gt_ignored")
            else found
            for found, truth in zip(proposals, targets, strict=True)
        ]
        return super().label_and_sample_proposals(kept, targets)

    def _matches_object(self, found: Instances, truth: Instances) -> torch.Tensor:
        _, labels = self.proposal_matcher(pairwise_iou(truth.gt_boxes, found.proposal_boxes))
        return labels == 1
