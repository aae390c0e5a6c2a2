"""Which regions of two frames an embedding learns from."""

import torch
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, Instances, pairwise_iou

# Identity of a region that shows no object.
BACKGROUND = -1


def draw_evenly(groups: torch.Tensor, count: int) -> torch.Tensor:
    """Draw members of groups at random, and from each group equally many as far as it has them.

    Args:
        groups: (N,) int64, the group of each.
        count: how many to draw.

    Returns:
        (min(N, count),) int64 indices.
    """
    shuffled = torch.randperm(len(groups), device=groups.device)
    ordered, order = groups[shuffled].sort(stable=True)
    places = torch.arange(len(groups), device=groups.device)
    # The first of each group in random order, then the second of each, and so on.
    turn = places - torch.searchsorted(ordered, ordered)
    return shuffled[order[(turn + torch.rand_like(turn, dtype=torch.float64)).argsort()[:count]]]


class RegionSampler:
    """Draws regions of a frame: evenly among its objects, and among backgrounds that overlap objects little or more.

    Defaults are those of QDTrack's release (arXiv:2006.06664).

    Args:
        matcher: from (G, R) IoU to each region's object and label: 1 foreground, 0 background, -1 neither.
        regions_per_image: at most that many.
        positive_fraction: of them at most this share is foreground.
        negatives_per_positive: at most that many backgrounds for each foreground, or for one where there is none.
        iou_bins: backgrounds are drawn evenly from that many equal ranges of their overlap with an object.
    """

    def __init__(
        self,
        *,
        matcher: Matcher,
        regions_per_image: int = 256,
        positive_fraction: float = 0.5,
        negatives_per_positive: int = 3,
        iou_bins: int = 3,
    ):
        self.matcher = matcher
        self.regions_per_image = regions_per_image
        self.positive_fraction = positive_fraction
        self.negatives_per_positive = negatives_per_positive
        self.iou_bins = iou_bins

    @torch.no_grad()
    def __call__(self, boxes: Boxes, truth: Instances, *, positives_only: bool = False) -> Instances:
        """Draw regions of one frame.

        Args:
            boxes: (R,) candidates, xyxy pixels; the true boxes are candidates too.
            truth: with `gt_boxes` and `gt_ids`, G >= 0 objects.
            positives_only: leave out backgrounds.

        Returns:
            regions with `proposal_boxes` and `gt_ids` (`BACKGROUND` for those), objects first.
        """
        boxes = Boxes.cat([boxes, truth.gt_boxes])
        overlaps = pairwise_iou(truth.gt_boxes, boxes)
        matched, labels = self.matcher(overlaps)
        positive = (labels == 1).nonzero(as_tuple=True)[0]
        limit = int(self.regions_per_image * self.positive_fraction)
        positive = positive[draw_evenly(matched[positive], limit)]
        regions = Instances(truth.image_size, proposal_boxes=boxes[positive], gt_ids=truth.gt_ids[matched[positive]])
        if positives_only:
            return regions
        negative = self._draw_backgrounds(overlaps, labels, len(positive))
        nobody = truth.gt_ids.new_full((len(negative),), BACKGROUND)
        return Instances.cat([regions, Instances(truth.image_size, proposal_boxes=boxes[negative], gt_ids=nobody)])

    def _draw_backgrounds(self, overlaps: torch.Tensor, labels: torch.Tensor, positives: int) -> torch.Tensor:
        negative = (labels == 0).nonzero(as_tuple=True)[0]
        limit = min(self.regions_per_image - positives, self.negatives_per_positive * max(positives, 1))
        # A row of zeros stands for no object at all.
        best = torch.cat([overlaps, overlaps.new_zeros(1, overlaps.shape[1])])[:, negative].amax(dim=0)
        highest = best.max().clamp(min=1e-6) if len(best) else 1.0
        bins = (best / highest * self.iou_bins).long().clamp(max=self.iou_bins - 1)
        return negative[draw_evenly(bins, limit)]
