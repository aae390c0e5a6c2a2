"""Which query answers for which object: the assignment of least cost, one query to an object."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import nn
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou

from instseg_d2.layers.mask_boxes import tight_boxes
from instseg_d2.layers.point_sampling import sample_points

from .transformer_decoder import QueryOutput


@dataclass(frozen=True)
class ImageTargets:
    """The M objects of an image, as far as the losses may look at them.

    Attributes:
        classes: (M,) int64.
        boxes: (M, 4) float32 xyxy, as shares of the padded batch's width and height.
        masks: (M, H, W) bool on the padded batch; None in supervision by boxes.
    """

    classes: torch.Tensor
    boxes: torch.Tensor
    masks: torch.Tensor | None = None


class Matches(NamedTuple):
    """J pairs of a query and an object, of all images.

    Attributes:
        images: (J,) int64.
        queries: (J,) int64.
        objects: (J,) int64, in the concatenation of all images' objects.
    """

    images: torch.Tensor
    queries: torch.Tensor
    objects: torch.Tensor


def least_cost(costs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Pair rows with columns, each at most once and as many as possible, so that the sum of costs is least.

    Args:
        costs: (Q, M).

    Returns:
        rows and columns, (min(Q, M),) int64 each, in the order of the rows.

    Raises:
        FloatingPointError: a cost is not finite, so that a prediction is not.
    """
    if not costs.isfinite().all():
        raise FloatingPointError("classes or masks of the queries are not finite, so they cannot be matched to objects")
    rows, columns = linear_sum_assignment(costs.cpu().numpy())
    return torch.as_tensor(rows, device=costs.device), torch.as_tensor(columns, device=costs.device)


class QueryMatcher(nn.Module, ABC):
    """Gives objects to queries by least cost; costs are computed in float32 under autocast too.

    Args:
        class_weight: factor on minus the probability of the object's class.
    """

    def __init__(self, *, class_weight: float = 2.0):
        super().__init__()
        self.class_weight = class_weight

    @torch.no_grad()
    def forward(self, output: QueryOutput, targets: Sequence[ImageTargets]) -> Matches:
        """Match one layer's predictions to the objects of each image.

        Raises:
            FloatingPointError: see `least_cost`.
        """
        pairs, first = [], 0
        for index, image in enumerate(targets):
            queries, objects = least_cost(self.costs(output.class_logits[index], output.mask_logits[index], image))
            pairs.append(torch.stack([torch.full_like(queries, index), queries, objects + first]))
            first += len(image.classes)
        return Matches(*torch.cat(pairs, dim=1))

    @torch.no_grad()
    def costs(self, class_logits: torch.Tensor, mask_logits: torch.Tensor, target: ImageTargets) -> torch.Tensor:
        """Cost (Q, M) float32 of each query of an image for each object.

        Args:
            class_logits: (Q, K + 1).
            mask_logits: (Q, h, w), over the padded batch.
            target: what there is.
        """
        with torch.autocast(mask_logits.device.type, enabled=False):
            probabilities = class_logits.float().softmax(dim=1)
            return self.mask_costs(mask_logits, target) - self.class_weight * probabilities[:, target.classes]

    @abstractmethod
    def mask_costs(self, mask_logits: torch.Tensor, target: ImageTargets) -> torch.Tensor:
        """Cost (Q, M) float32 of the masks (Q, h, w) alone."""


class MaskMatcher(QueryMatcher):
    """Compares masks in random points, the same for all of an image (Mask2Former, arXiv:2112.01527, Sec. 3.2.3).

    Args:
        class_weight: see `QueryMatcher`.
        bce_weight: factor on the binary cross entropy.
        dice_weight: factor on the dice loss.
        num_points: how many points.
    """

    def __init__(
        self,
        *,
        class_weight: float = 2.0,
        bce_weight: float = 5.0,
        dice_weight: float = 5.0,
        num_points: int = 12544,
    ):
        super().__init__(class_weight=class_weight)
        self.bce_weight = bce_weight
        self.dice_weight = dice_weight
        self.num_points = num_points

    def mask_costs(self, mask_logits: torch.Tensor, target: ImageTargets) -> torch.Tensor:
        points = torch.rand(1, self.num_points, 2, device=mask_logits.device)
        # In the masks' own precision: a float32 copy of all of them is not needed.
        logits = sample_points(mask_logits, points).float()
        truth = sample_points(target.masks, points)
        # Cross entropy with 0 is softplus(x), with 1 softplus(-x) = softplus(x) - x; between, it is linear.
        bce = (F.softplus(logits).sum(dim=1)[:, None] - logits @ truth.T) / self.num_points
        probabilities = logits.sigmoid()
        overlap = probabilities @ truth.T
        total = probabilities.sum(dim=1)[:, None] + truth.sum(dim=1)
        dice = 1 - (2 * overlap + 1) / (total + 1)
        return self.bce_weight * bce + self.dice_weight * dice


class BoxMatcher(QueryMatcher):
    """Compares the tight box of a query's mask with the object's box; looks at no mask of the truth.

    The costs are DETR's (arXiv:2005.12872, Sec. 3.1), with the boxes' corners.

    Args:
        class_weight: see `QueryMatcher`.
        corner_weight: factor on the Euclidean distance of the corners, in shares of the padded batch.
        giou_weight: factor on minus the generalized IoU.
        projection_weight: factor on the dice losses of the masks' maxima over rows and over columns with the box's
            sides, which differ between masks whose tight boxes are the same.
    """

    def __init__(
        self,
        *,
        class_weight: float = 2.0,
        corner_weight: float = 5.0,
        giou_weight: float = 2.0,
        projection_weight: float = 0.0,
    ):
        super().__init__(class_weight=class_weight)
        self.corner_weight = corner_weight
        self.giou_weight = giou_weight
        self.projection_weight = projection_weight

    def mask_costs(self, mask_logits: torch.Tensor, target: ImageTargets) -> torch.Tensor:
        height, width = mask_logits.shape[1:]
        boxes = tight_boxes(mask_logits > 0) / mask_logits.new_tensor([width, height, width, height]).float()
        # Two boxes without any area have no IoU; nothing overlaps less.
        overlap = generalized_box_iou(boxes, target.boxes).nan_to_num(nan=-1.0)
        costs = self.corner_weight * torch.cdist(boxes, target.boxes) - self.giou_weight * overlap
        if self.projection_weight:
            costs = costs + self.projection_weight * _projection_costs(mask_logits, target.boxes)
        return costs


def _projection_costs(mask_logits: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """(Q, M): dice losses of the maxima over rows and over columns, as of `projection_loss`, for all pairs."""
    total = 0
    for axis, dim in ((0, 1), (1, 2)):
        profiles = mask_logits.amax(dim=dim).float().sigmoid()
        middles = (torch.arange(profiles.shape[1], device=boxes.device) + 0.5) / profiles.shape[1]
        sides = ((middles > boxes[:, axis, None]) & (middles < boxes[:, axis + 2, None])).float()
        squares = profiles.square().sum(dim=1)[:, None] + sides.sum(dim=1)
        total = total + 1 - 2 * (profiles @ sides.T) / (squares + 1e-5)
    return total
