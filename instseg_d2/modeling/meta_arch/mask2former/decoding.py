"""From what the queries of an image predict to its instances (Mask2Former's instance inference)."""

import torch
from detectron2.structures import Boxes, Instances
from torch.nn import functional as F

from instseg_d2.layers.mask_boxes import tight_boxes

from .matcher import ImageTargets, QueryMatcher, least_cost

# Of the largest map that is held at a time; one mask may exceed it.
_ELEMENTS = 2**24


def best_pairs(
    class_logits: torch.Tensor, mask_logits: torch.Tensor, image_size: tuple[int, int], count: int
) -> Instances:
    """The pairs of a query and a class of the highest probability.

    Args:
        class_logits: (Q, K + 1) of an image.
        mask_logits: (Q, h, w), over the padded batch.
        image_size: (height, width) without the padding.
        count: how many; fewer if there are not as many pairs.

    Returns:
        `scores`, the probabilities, `pred_classes` and `mask_logits` (R, h, w) float32.
    """
    probabilities = class_logits.float().softmax(dim=1)[:, :-1]
    scores, pairs = probabilities.flatten().topk(min(count, probabilities.numel()))
    classes, queries = pairs % probabilities.shape[1], pairs // probabilities.shape[1]
    return Instances(image_size, scores=scores, pred_classes=classes, mask_logits=mask_logits[queries].float())


def assign_boxes(
    class_logits: torch.Tensor,
    mask_logits: torch.Tensor,
    instances: Instances,
    padded_size: tuple[int, int],
    matcher: QueryMatcher,
) -> Instances:
    """Give each instance with a box and a class the mask of a query, by least cost.

    A query serves one instance, unless there are more of these than queries.

    Args:
        class_logits: (Q, K + 1) of an image.
        mask_logits: (Q, h, w), over the padded batch.
        instances: with `pred_boxes` and `pred_classes`, in pixels of the network's input.
        padded_size: (height, width) of the batch.
        matcher: says the costs.

    Returns:
        the same instances with `mask_logits` (R, h, w) float32.
    """
    height, width = padded_size
    boxes = instances.pred_boxes.tensor.float()
    target = ImageTargets(classes=instances.pred_classes, boxes=boxes / boxes.new_tensor([width, height] * 2))
    costs = matcher.costs(class_logits, mask_logits, target)
    queries = torch.zeros(len(instances), dtype=torch.int64, device=boxes.device)
    for part in torch.arange(len(instances), device=boxes.device).split(len(class_logits)):
        rows, columns = least_cost(costs[:, part])
        queries[part[columns]] = rows
    return Instances(instances.image_size, **{**instances.get_fields(), "mask_logits": mask_logits[queries].float()})


def certainty(mask_logits: torch.Tensor) -> torch.Tensor:
    """(R,) mean probability of the foreground pixels of masks (R, H, W); 0 for an empty mask."""
    foreground = (mask_logits > 0).flatten(1)
    return (mask_logits.sigmoid().flatten(1) * foreground).sum(dim=1) / (foreground.sum(dim=1) + 1e-6)


def finish(
    instances: Instances,
    *,
    padded_size: tuple[int, int],
    output_size: tuple[int, int],
    keep_boxes: bool = False,
) -> Instances:
    """Bring the instances of an image to the size of the output.

    Args:
        instances: with `mask_logits` (R, h, w), over the padded batch; with `scores` of classes, unless `keep_boxes`.
        padded_size: (height, width) of the batch.
        output_size: (height, width).
        keep_boxes: the instances have `pred_boxes`, in pixels of the network's input, which are rescaled and kept, as
            are number and order. Without, boxes are drawn tight around the masks, scores multiplied with the masks'
            certainty, and instances without a pixel left out.

    Returns:
        instances with `pred_boxes` and `pred_masks` (R', *output_size) bool; with new scores best first.
    """
    image_size = instances.image_size
    masks, sure = _enlarge(instances.mask_logits, padded_size, image_size, output_size)
    fields = {**instances.get_fields(), "pred_masks": masks}
    fields.pop("mask_logits")
    if keep_boxes:
        boxes = instances.pred_boxes.clone()
        boxes.scale(output_size[1] / image_size[1], output_size[0] / image_size[0])
        boxes.clip(output_size)
        return Instances(output_size, **{**fields, "pred_boxes": boxes})
    fields.update(pred_boxes=Boxes(tight_boxes(masks)), scores=instances.scores * sure)
    order = fields["scores"].argsort(descending=True, stable=True)
    result = Instances(output_size, **fields)[order]
    return result[result.pred_boxes.nonempty()]


def _enlarge(
    mask_logits: torch.Tensor, padded_size: tuple[int, int], image_size: tuple[int, int], output_size: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Masks (R, *output_size) bool of logits over the padded batch, and how certain they are (R,)."""
    masks = torch.empty(len(mask_logits), *output_size, dtype=torch.bool, device=mask_logits.device)
    sure = mask_logits.new_zeros(len(mask_logits))
    largest = max(padded_size[0] * padded_size[1], output_size[0] * output_size[1])
    rows = torch.arange(len(mask_logits), device=masks.device)
    for part in rows.split(max(_ELEMENTS // largest, 1)):
        maps = F.interpolate(mask_logits[part, None], size=padded_size, mode="bilinear", align_corners=False)
        maps = maps[:, :, : image_size[0], : image_size[1]]
        if tuple(image_size) != tuple(output_size):
            maps = F.interpolate(maps, size=tuple(output_size), mode="bilinear", align_corners=False)
        masks[part] = maps[:, 0] > 0
        sure[part] = certainty(maps[:, 0])
    return masks, sure


def unfinished(instances: Instances, *, padded_size: tuple[int, int], keep_boxes: bool = False) -> Instances:
    """Leave the instances of an image on the grid of the masks; arguments as of `finish`.

    Returns:
        instances with `pred_masks` (R, h, w), probabilities over the padded batch, in the order given. Without
        `keep_boxes` boxes are tight up to the stride, and scores are multiplied with the certainty on the grid.
    """
    fields, logits = instances.get_fields(), instances.mask_logits
    fields = {
        **{name: value for name, value in fields.items() if name != "mask_logits"},
        "pred_masks": logits.sigmoid(),
    }
    if not keep_boxes:
        boxes = Boxes(tight_boxes(logits > 0) * (padded_size[0] / logits.shape[1]))
        boxes.clip(instances.image_size)
        fields.update(pred_boxes=boxes, scores=instances.scores * certainty(logits))
    return Instances(instances.image_size, **fields)
