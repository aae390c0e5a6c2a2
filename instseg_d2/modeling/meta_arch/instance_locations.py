"""Which locations of the detector stand for instances whose masks are learned or asked for."""

from collections.abc import Sequence

import torch
from detectron2.structures import Boxes, Instances


def random_rows(positives: Sequence[Instances], limit: int) -> list[torch.Tensor]:
    """Draw at most `limit` positives out of the batch.

    Args:
        positives: per image.
        limit: for all images together.

    Returns:
        per image the chosen rows (K_i,) int64, in ascending order.
    """
    counts = [len(x) for x in positives]
    if sum(counts) <= limit:
        return [torch.arange(count) for count in counts]
    chosen = torch.zeros(sum(counts), dtype=torch.bool)
    chosen[torch.randperm(len(chosen))[:limit]] = True
    return [part.nonzero()[:, 0] for part in chosen.split(counts)]


def best_rows(positives: Instances, limit: int) -> torch.Tensor:
    """Share the number of positives of an image out equally among its objects, to the best of each.

    Every object with positives keeps `limit` // (number of such objects), or 1 if that is less.

    Args:
        positives: of one image, with `gt_inds` and `scores`.
        limit: of the image; only more objects than that exceed it.

    Returns:
        the chosen rows (K,) int64, in ascending order.
    """
    order = positives.scores.argsort(descending=True)
    order = order[positives.gt_inds[order].argsort(stable=True)]
    objects, counts = positives.gt_inds.unique(return_counts=True)  # sorted, as the rows are now
    # What precedes the object's first row: its rows are numbered from there, the best one first.
    before = torch.repeat_interleave(counts.cumsum(dim=0) - counts, counts)
    rank = torch.arange(len(order), device=order.device) - before
    return order[rank < max(limit // max(len(objects), 1), 1)].sort().values


def place_boxes(instances: Instances, anchors: Sequence[Boxes], maps: Sequence[torch.Tensor], image: int) -> Instances:
    """Give boxes from elsewhere the location, level and vector that the detector would most likely find them with.

    That is the location nearest to the center of the box, on the finest level where all sides of the box are within 8
    strides of it, as that level has learned.

    Args:
        instances: of one image, with `pred_boxes` (xyxy pixels of the network's input).
        anchors: per level, squares of the size of the stride around the locations.
        maps: per level (N, C_e, H_l, W_l), the extra output of the head.
        image: index of the image in the batch.

    Returns:
        the instances with `locations`, `fpn_levels` and `extra` beside their own fields.
    """
    boxes = instances.pred_boxes.tensor
    placed = Instances(instances.image_size, **instances.get_fields())
    placed.pred_boxes = instances.pred_boxes.clone()  # postprocessing scales boxes in place
    placed.locations = boxes.new_zeros(len(boxes), 2)
    placed.fpn_levels = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
    placed.extra = maps[0].new_zeros(len(boxes), maps[0].shape[1])
    fits = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    for level, (squares, values) in enumerate(zip(anchors, maps, strict=True)):
        height, width = values.shape[2:]
        stride = squares.tensor[0, 2] - squares.tensor[0, 0]
        cells = (instances.pred_boxes.get_centers() / stride).floor().long()
        rows = cells[:, 1].clamp(0, height - 1) * width + cells[:, 0].clamp(0, width - 1)
        points = squares.get_centers()[rows]
        reach = torch.cat([points - boxes[:, :2], boxes[:, 2:] - points], dim=1).amax(dim=1)
        here = ~fits & ((reach < 8 * stride) | (level == len(maps) - 1))
        placed.locations[here] = points[here]
        placed.fpn_levels[here] = level
        placed.extra[here] = values[image].flatten(1).T[rows[here]]
        fits |= here
    return placed
