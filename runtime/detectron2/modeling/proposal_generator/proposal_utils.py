"""From scored boxes to proposals, and ground truth among them."""

import math

import torch

from detectron2.layers import batched_nms, cat
from detectron2.structures import Boxes, Instances

__all__ = ["find_top_rpn_proposals", "add_ground_truth_to_proposals", "add_ground_truth_to_proposals_single_image"]

# Logit of the probability 1 - 1e-10, which ground truth gets among the proposals.
_GT_LOGIT = math.log((1.0 - 1e-10) / (1 - (1.0 - 1e-10)))


def top_per_level(pred_objectness_logits: list[torch.Tensor], k: int):
    """Rank the predictions of each level by score.

    Args:
        pred_objectness_logits: per level, (N, Ri).
        k (int): how many to keep per level.

    Returns:
        Tensor: (N, K) logits of the kept ones, level by level, best first.
        list[Tensor]: per level, (N, Ki) int64, their indices.
        Tensor: (K,) int64, their levels.
    """
    scores, indices, levels = [], [], []
    for level, logits in enumerate(pred_objectness_logits):
        top, picked = logits.topk(min(k, logits.shape[1]), dim=1)
        scores.append(top)
        indices.append(picked)
        levels.append(picked.new_full(picked.shape[1:], level))
    return cat(scores, dim=1), indices, cat(levels)


def pick_rows(tensors: list[torch.Tensor], indices: list[torch.Tensor]) -> torch.Tensor:
    """Rows `indices[i]` (N, Ki) of `tensors[i]` (N, Ri, D), side by side: (N, K, D)."""
    return cat(
        [t.gather(1, i[..., None].expand(-1, -1, t.shape[-1])) for t, i in zip(tensors, indices, strict=True)], 1
    )


def select_proposals(
    boxes: torch.Tensor,
    scores: torch.Tensor,
    levels: torch.Tensor,
    image_sizes: list[tuple[int, int]],
    *,
    nms_thresh: float,
    post_nms_topk: int,
    min_box_size: float,
    training: bool,
) -> list[Instances]:
    """Clip boxes to their image, drop the broken and small ones, and run NMS within each level.

    Args:
        boxes: (N, K, 4) xyxy; changed.
        scores: (N, K) logits.
        levels: (K,) int64.
        image_sizes: per image, (height, width).

    The other arguments and the result are those of :func:`find_top_rpn_proposals`.
    """
    valid = boxes.isfinite().all(dim=-1) & scores.isfinite()
    finite = valid.all()
    for i, (height, width) in enumerate(image_sizes):
        boxes[i, :, 0::2].clamp_(min=0, max=width)
        boxes[i, :, 1::2].clamp_(min=0, max=height)
    valid &= (boxes[..., 2:] - boxes[..., :2] > min_box_size).all(dim=-1)
    # One transfer to the host for the whole batch.
    finite, complete = torch.stack((finite, valid.all())).tolist()
    if training and not finite:
        raise FloatingPointError("The RPN predicted boxes or scores that are Inf or NaN: training has diverged.")

    results = []
    for i, image_size in enumerate(image_sizes):
        candidates = (boxes[i], scores[i], levels)
        if not complete:
            candidates = tuple(values[valid[i]] for values in candidates)
        keep = batched_nms(*candidates, nms_thresh)[:post_nms_topk]
        proposals = Instances(image_size)
        proposals.proposal_boxes = Boxes(candidates[0][keep])
        proposals.objectness_logits = candidates[1][keep]
        results.append(proposals)
    return results


def find_top_rpn_proposals(
    proposals: list[torch.Tensor],
    pred_objectness_logits: list[torch.Tensor],
    image_sizes: list[tuple[int, int]],
    nms_thresh: float,
    pre_nms_topk: int,
    post_nms_topk: int,
    min_box_size: float,
    training: bool,
):
    """Keep the best proposals of each image.

    Args:
        proposals: per level, (N, Ri, 4) xyxy in absolute pixels.
        pred_objectness_logits: per level, (N, Ri).
        image_sizes: per image, (height, width); boxes are clipped to it.
        nms_thresh (float): IoU above which the lower-scored box of the same level is dropped.
        pre_nms_topk (int): how many enter NMS, for each level and image.
        post_nms_topk (int): how many leave it, for each image.
        min_box_size (float): both sides of a kept box are longer than this, in pixels.
        training (bool): raise on non-finite predictions, instead of dropping them.

    Returns:
        list[Instances]: per image, `proposal_boxes` and `objectness_logits`, best first.

    Raises:
        FloatingPointError: in training, when a box or a score among the top ones is Inf or NaN.
    """
    scores, indices, levels = top_per_level(pred_objectness_logits, pre_nms_topk)
    return select_proposals(
        pick_rows(proposals, indices),
        scores,
        levels,
        image_sizes,
        nms_thresh=nms_thresh,
        post_nms_topk=post_nms_topk,
        min_box_size=min_box_size,
        training=training,
    )


def add_ground_truth_to_proposals(gt: list[Instances] | list[Boxes], proposals: list[Instances]) -> list[Instances]:
    """Append the ground truth to the proposals of every image.

    Args:
        gt: per image, Instances with `gt_boxes`, or the boxes.
        proposals: per image, `proposal_boxes` and `objectness_logits`.

    Returns:
        list[Instances]: per image, the fields of `proposals`.

    Raises:
        ValueError: for lists of different length.
    """
    assert gt is not None, "There is no ground truth to add to the proposals"
    if len(gt) != len(proposals):
        raise ValueError(f"Ground truth of {len(gt)} images for proposals of {len(proposals)}")
    return [add_ground_truth_to_proposals_single_image(g, p) for g, p in zip(gt, proposals, strict=True)]


def add_ground_truth_to_proposals_single_image(gt: Instances | Boxes, proposals: Instances) -> Instances:
    """Append the ground truth of one image to its proposals, with the logit of a probability of almost 1.

    Args:
        gt: Instances with `gt_boxes`, or the boxes. Every further field of `proposals` must be there too.
        proposals: `proposal_boxes` and `objectness_logits`.

    Returns:
        Instances: the fields of `proposals`, ground truth last.
    """
    fields = {"gt_boxes": gt} if isinstance(gt, Boxes) else gt.get_fields()
    extra = Instances(proposals.image_size, **fields)
    extra.proposal_boxes = extra.gt_boxes
    extra.objectness_logits = torch.full((len(extra.gt_boxes),), _GT_LOGIT, device=proposals.objectness_logits.device)
    for name in proposals.get_fields():
        assert extra.has(name), f"Proposals have the field '{name}', the ground truth does not"
    return Instances.cat([proposals, extra])
