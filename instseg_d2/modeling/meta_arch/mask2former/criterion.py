"""What teaches Mask2Former: the interface, and full supervision. Supervision by boxes is in `box_criterion`."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.structures import ImageList, Instances
from torch import nn
from torch.nn import functional as F

from instseg_d2.layers.point_sampling import sample_points, uncertain_points
from instseg_d2.layers.ranks import mean_over_ranks

from ..base import ground_truth_masks, visible_masks
from .matcher import ImageTargets, MaskMatcher, Matches, QueryMatcher
from .transformer_decoder import QueryOutput


@dataclass(frozen=True, kw_only=True)
class QueryStep:
    """One training step as the losses see it: N images, Q queries.

    Attributes:
        inputs: per image, from the data loader.
        images: the padded batch, normalized.
        truth: per image, the ground truth.
        mask_features: (N, D, H, W) float32, the embedding of each pixel.
        outputs: predictions of the learned queries and after each layer, the last one last.
    """

    inputs: Sequence[dict[str, Any]]
    images: ImageList
    truth: Sequence[Instances]
    mask_features: torch.Tensor
    outputs: Sequence[QueryOutput]

    @property
    def stride(self) -> int:
        """Pixels between the points of the masks."""
        return self.images.tensor.shape[-1] // self.mask_features.shape[-1]


@dataclass(frozen=True, kw_only=True)
class StepTargets:
    """What the losses of all layers are compared with: M objects of the batch.

    Attributes:
        images: per image, its objects, as far as the supervision may look at them.
        count: scalar, the objects that teach a mask, averaged over all processes, at least 1.
    """

    images: Sequence[ImageTargets]
    count: torch.Tensor

    @property
    def classes(self) -> torch.Tensor:
        """(M,) int64, of all images' objects."""
        return torch.cat([image.classes for image in self.images])


class QuerySupervision(nn.Module, ABC):
    """Losses of the classes and masks after every layer, each with a matching of its own (Sec. 3.2.3).

    Args:
        matcher: gives queries to objects.
        class_weight: factor on `loss_class`.
        no_object_weight: weight of queries without an object in it.
    """

    def __init__(self, *, matcher: QueryMatcher, class_weight: float = 2.0, no_object_weight: float = 0.1):
        super().__init__()
        self.matcher = matcher
        self.class_weight = class_weight
        self.no_object_weight = no_object_weight

    def forward(self, step: QueryStep) -> dict[str, torch.Tensor]:
        """Compute `loss_<part>` of the last layer and `loss_<part>_<i>` of those before it.

        The keys are the same in every step; without objects, mask losses are zeros that keep the graph.

        Raises:
            FloatingPointError: predictions are not finite.
        """
        targets = self.targets(step)
        return self.losses(step.outputs, self.match(step.outputs, targets), targets)

    def match(self, outputs: Sequence[QueryOutput], targets: StepTargets) -> Iterator[Matches]:
        """Give queries to objects, layer by layer, the last one first, as `layer_suffixes` has them."""
        return (self.matcher(output, targets.images) for _, output in layer_suffixes(outputs))

    def losses(
        self, outputs: Sequence[QueryOutput], matches: Iterable[Matches], targets: StepTargets
    ) -> dict[str, torch.Tensor]:
        """Compute the losses of all layers for the pairs of `match`."""
        losses = {}
        for (suffix, output), pairs in zip(layer_suffixes(outputs), matches, strict=True):
            parts = {
                "loss_class": self.class_weight * self.class_loss(output, pairs, targets),
                **self.mask_losses(output, pairs, targets),
            }
            losses.update({f"{name}{suffix}": value for name, value in parts.items()})
        return losses

    @abstractmethod
    def targets(self, step: QueryStep) -> StepTargets:
        """What the layers are compared with; called once in a step."""

    @abstractmethod
    def mask_losses(self, output: QueryOutput, matches: Matches, targets: StepTargets) -> dict[str, torch.Tensor]:
        """Losses of the masks that one layer predicts for the matched objects."""

    def class_loss(self, output: QueryOutput, matches: Matches, targets: StepTargets) -> torch.Tensor:
        """Cross entropy of all queries' classes; those without an object have the last class."""
        logits = output.class_logits.float()
        labels = logits.new_full(logits.shape[:2], logits.shape[2] - 1, dtype=torch.int64)
        labels[matches.images, matches.queries] = targets.classes[matches.objects]
        weights = logits.new_ones(logits.shape[2])
        weights[-1] = self.no_object_weight
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), weights)


def layer_suffixes(outputs: Sequence[QueryOutput]) -> list[tuple[str, QueryOutput]]:
    """The layers with what their losses' names end in: the last one with "", then `_0`, `_1` and so on."""
    *earlier, last = outputs
    return [("", last), *((f"_{index}", one) for index, one in enumerate(earlier))]


def image_targets(step: QueryStep, masks: Sequence[torch.Tensor | None]) -> list[ImageTargets]:
    """Classes and boxes of each image, with the masks that are given."""
    height, width = step.images.tensor.shape[-2:]
    results = []
    for truth, own in zip(step.truth, masks, strict=True):
        boxes = truth.gt_boxes.tensor
        shares = boxes / boxes.new_tensor([width, height, width, height])
        results.append(ImageTargets(classes=truth.gt_classes, boxes=shares, masks=own))
    return results


@dataclass(frozen=True, kw_only=True)
class MaskTargets(StepTargets):
    """Further attributes: `masks` (M, H, W) bool on the padded batch, and `visible` (M,) bool: they may be seen."""

    masks: torch.Tensor
    visible: torch.Tensor


class PointMaskLoss(QuerySupervision):
    """Full supervision: binary cross entropy and dice in points where masks are unsure (Mask2Former, Sec. 3.3).

    Both are summed over objects and divided by their number, averaged over all processes. An object whose mask
    `gt_has_mask` hides is matched by its filled box, which stands for the mask, and trains the class alone.

    Args:
        matcher: see `QuerySupervision`; `MaskMatcher()` if None.
        bce_weight: factor on `loss_mask`.
        dice_weight: factor on `loss_dice`.
        num_points: K in the paper, of a mask.
        oversampling: see `uncertain_points`.
        importance: see `uncertain_points`.
        kwargs: for `QuerySupervision`.
    """

    def __init__(
        self,
        *,
        matcher: QueryMatcher | None = None,
        bce_weight: float = 5.0,
        dice_weight: float = 5.0,
        num_points: int = 12544,
        oversampling: float = 3.0,
        importance: float = 0.75,
        **kwargs,
    ):
        super().__init__(matcher=matcher or MaskMatcher(num_points=num_points), **kwargs)
        self.bce_weight = bce_weight
        self.dice_weight = dice_weight
        self.num_points = num_points
        self.oversampling = oversampling
        self.importance = importance

    def targets(self, step: QueryStep) -> MaskTargets:
        """Classes, and masks on the padded batch.

        Raises:
            DatasetError: there are objects, but no masks.
        """
        height, width = step.images.tensor.shape[-2:]
        masks = [ground_truth_masks(truth) for truth in step.truth]
        masks = torch.cat([F.pad(x, (0, width - x.shape[2], 0, height - x.shape[1])) for x in masks])
        visible = torch.cat([visible_masks(truth) for truth in step.truth])
        return MaskTargets(
            images=image_targets(step, masks.split([len(truth) for truth in step.truth])),
            count=mean_over_ranks(visible.sum().float()).clamp(min=1),
            masks=masks,
            visible=visible,
        )

    def mask_losses(self, output: QueryOutput, matches: Matches, targets: MaskTargets) -> dict[str, torch.Tensor]:
        """Compute `loss_mask` (cross entropy) and `loss_dice`."""
        rows = targets.visible[matches.objects].nonzero()[:, 0]
        logits = output.mask_logits[matches.images[rows], matches.queries[rows]].float()
        points = uncertain_points(
            logits.detach(), self.num_points, oversampling=self.oversampling, importance=self.importance
        )
        truth = sample_points(targets.masks[matches.objects[rows]], points)
        logits = sample_points(logits, points)
        bce = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").sum(dim=1) / self.num_points
        return {
            "loss_mask": self.bce_weight * bce.sum() / targets.count,
            "loss_dice": self.dice_weight * smooth_dice(logits.sigmoid(), truth).sum() / targets.count,
        }


def smooth_dice(probabilities: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """1 - (2 sum(p t) + 1) / (sum(p) + sum(t) + 1) of each row (K, P): Mask2Former's form of the dice loss."""
    overlap = (probabilities * targets).sum(dim=1)
    return 1 - (2 * overlap + 1) / (probabilities.sum(dim=1) + targets.sum(dim=1) + 1)
