"""What mask heads learn from: the regions whose mask may be seen, and ground truth cut out at the regions."""

from collections.abc import Sequence

import torch
from detectron2.structures import Instances


def supervised(instances: Sequence[Instances]) -> tuple[torch.Tensor, list[Instances]]:
    """Find the regions whose ground-truth mask a loss may look at.

    Args:
        instances: per image, regions with `proposal_boxes` and ground truth. `gt_has_mask` (R_i,) bool says which masks
            may be seen; where it is absent, all may.

    Returns:
        (R,) bool over the regions of all images; and per image the regions so chosen, without the images that have
        none (those may lack ground-truth fields altogether).
    """
    flags = [
        x.gt_has_mask if x.has("gt_has_mask") else torch.ones(len(x), dtype=torch.bool, device=x.proposal_boxes.device)
        for x in instances
    ]
    chosen = [x[flag] if x.has("gt_has_mask") else x for x, flag in zip(instances, flags, strict=True) if len(x) > 0]
    return torch.cat(flags), [x for x in chosen if len(x) > 0]


@torch.no_grad()
def crop_targets(instances: Sequence[Instances], size: int, field: str = "gt_masks") -> torch.Tensor:
    """Cut the ground truth of regions out at their boxes and bring it to the size of the predictions.

    Args:
        instances: per image, regions with `proposal_boxes` (xyxy pixels) and `field`; at least one region in all.
        size: side M of the targets.
        field: `BitMasks` or `PolygonMasks`, such as `gt_masks`, `gt_occluders`, `gt_amodal_masks`.

    Returns:
        (R, M, M) float32, 0 or 1, on the device of the boxes.
    """
    crops = [
        x.get(field).crop_and_resize(x.proposal_boxes.tensor, size).to(x.proposal_boxes.device)
        for x in instances
        if len(x) > 0
    ]
    return torch.cat(crops).float()
