"""PEP, first step: what each cell shows, and a descriptor of the object there (Sec. 3.2, eq. 1 and 2)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.layers import ShapeSpec
from detectron2.structures import Instances
from torch import nn
from torch.nn import functional as F

from instseg_d2.layers.coordinates import append_coordinates
from instseg_d2.layers.focal_loss import focal_loss_of_labels
from instseg_d2.layers.point_nms import point_nms
from instseg_d2.layers.ranks import mean_over_ranks

from ..solov2.head import SOLOv2Head
from .targets import CellGrid

CLASSIFIERS = ("sigmoid", "softmax")


@dataclass(frozen=True)
class Perceived:
    """What `SemanticsPerceiving` gives for a batch, per level, over the cells of `grid`.

    Attributes:
        logits: (N, K, h, w) of the classes; with "softmax" (N, K + 1, h, w), the background last.
        descriptors: (N, D, h, w).
        features: (N, C, h, w), what the descriptors are predicted from.
        grid: the cells.
    """

    logits: list[torch.Tensor]
    descriptors: list[torch.Tensor]
    features: list[torch.Tensor]
    grid: CellGrid


def flat_cells(maps: Sequence[torch.Tensor]) -> torch.Tensor:
    """Per level (N, C, h, w) to (N, R, C), in the order of `CellGrid`."""
    return torch.cat([level.flatten(2) for level in maps], dim=2).transpose(1, 2)


class PerceivingStage(SOLOv2Head):
    """The branches of SOLOv2, for one stage or several, which also shows what the descriptors are predicted from.

    Args:
        dense: keep the maps as they are in place of resampling them to grids.
        shared_tower: classes are predicted from the descriptors' tower.
        kwargs: of `SOLOv2Head`.
    """

    def __init__(self, *, dense: bool, shared_tower: bool, **kwargs):
        super().__init__(**kwargs)
        self.dense = dense
        if shared_tower:
            del self.category_tower
            self.category_tower = None

    def forward(self, features: Sequence[torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Logits, descriptors and the features before them, of each level."""
        outputs = []
        for level in [append_coordinates(x) for x in features] if self.dense else self.grids(features):
            located = self.kernel_tower(level)
            classes = located if self.category_tower is None else self.category_tower(level[:, :-2])
            outputs.append((self.category_pred(classes), self.kernel_pred(located), located))
        return outputs


class SemanticsPerceiving(nn.Module):
    """A class for each cell, and a descriptor: the kernel of a 1x1 convolution that gives the mask.

    The paper has these maps at the size of each stage; read as printed, "dense", this is semantic segmentation at five
    resolutions, with `grid_numbers=None`. Otherwise the maps are resampled to grids, as SOLOv2 (arXiv:2003.10152)
    does, whose results the paper's resemble.

    Args:
        input_shape: `channels` and `stride` of the levels, finest first.
        grid_numbers: cells a side, of each level; None for the cells of the maps themselves.
        grid_strides: strides that maps are brought to before they are resampled to grids; see `SOLOv2Head`.
        num_classes: K.
        conv_dims: 3x3 convolutions of the towers; four of 256 in the paper.
        descriptor_channels: D.
        norm: of the towers.
        classifier: "sigmoid" with the focal loss, divided by the number of cells with an object; or "softmax" over
            background and K classes with the cross entropy of eq. 2, averaged over these cells and the worst others.
        focal_alpha: of the focal loss.
        focal_gamma: of the focal loss.
        negatives: with "softmax", background cells that count, as a multiple of the others (of 1 if there are none).
        prior_prob: probability of a class, or of any class with "softmax", before training.
        shared_levels: the stages have the same weights; the printed indices may mean weights of their own.
        shared_tower: classes and descriptors share their four convolutions.
        score_threshold: of the class, for originals in inference.
        max_originals: of an image, in inference.
        loss_weight: of `loss_perceive`.

    Raises:
        ValueError: an unknown classifier, or lists of different lengths.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[ShapeSpec],
        grid_numbers: Sequence[int] | None = (40, 36, 24, 16, 12),
        grid_strides: Sequence[int] = (8, 8, 16, 32, 32),
        num_classes: int,
        conv_dims: Sequence[int] = (256, 256, 256, 256),
        descriptor_channels: int = 256,
        norm: str = "GN",
        classifier: str = "sigmoid",
        focal_alpha: float = 0.25,
        focal_gamma: float = 2.0,
        negatives: int = 3,
        prior_prob: float = 0.01,
        shared_levels: bool = True,
        shared_tower: bool = False,
        score_threshold: float = 0.1,
        max_originals: int = 100,
        loss_weight: float = 1.0,
    ):
        super().__init__()
        if classifier not in CLASSIFIERS:
            raise ValueError(f"classifier='{classifier}': must be one of {CLASSIFIERS}")
        shapes = list(input_shape)
        # Without grids neither strides nor sizes of grids are looked at.
        strides = [shape.stride for shape in shapes] if grid_numbers is None else list(grid_strides)
        numbers = strides if grid_numbers is None else list(grid_numbers)
        if not len(shapes) == len(strides) == len(numbers):
            raise ValueError(f"{len(shapes)} levels, but {len(strides)} grid_strides and {len(numbers)} grid_numbers")
        softmax = classifier == "softmax"
        levels = range(len(shapes))
        self.groups = [list(levels)] if shared_levels else [[level] for level in levels]
        self.stages = nn.ModuleList(
            PerceivingStage(
                input_shape=[shapes[level] for level in group],
                strides=[strides[level] for level in group],
                grid_numbers=[numbers[level] for level in group],
                num_classes=num_classes + softmax,
                conv_dims=conv_dims,
                kernel_channels=descriptor_channels,
                norm=norm,
                prior_prob=prior_prob,
                dense=grid_numbers is None,
                shared_tower=shared_tower,
            )
            for group in self.groups
        )
        if softmax:
            for stage in self.stages:
                nn.init.zeros_(stage.category_pred.bias)
                background = math.log(num_classes * (1 - prior_prob) / prior_prob)
                nn.init.constant_(stage.category_pred.bias[-1:], background)
        self.stride = shapes[0].stride
        self.num_classes = num_classes
        self.classifier = classifier
        self.focal = {"alpha": focal_alpha, "gamma": focal_gamma}
        self.negatives = negatives
        self.score_threshold = score_threshold
        self.max_originals = max_originals
        self.loss_weight = loss_weight

    def forward(self, features: Sequence[torch.Tensor]) -> Perceived:
        """Perceive; the features are per level (N, C, H_l, W_l)."""
        outputs = [
            output
            for group, stage in zip(self.groups, self.stages, strict=True)
            for output in stage([features[level] for level in group])
        ]
        logits, descriptors, located = (list(part) for part in zip(*outputs, strict=True))
        height, width = (side * self.stride for side in features[0].shape[-2:])
        shapes = tuple(tuple(level.shape[-2:]) for level in logits)
        return Perceived(logits, descriptors, located, CellGrid(shapes, height, width, logits[0].device))

    def losses(self, perceived: Perceived, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute `loss_perceive`, eq. 1.

        Args:
            perceived: from `forward`.
            labels: (N, R) int64, K for background.
        """
        logits = flat_cells(perceived.logits).float()
        positives = (labels != self.num_classes).sum()
        if self.classifier == "sigmoid":
            loss = focal_loss_of_labels(logits, labels, **self.focal) / mean_over_ranks(positives.float()).clamp(min=1)
            return {"loss_perceive": self.loss_weight * loss}
        each = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
        background = (labels == self.num_classes).flatten()
        # The worst background cells come first; what is no background counts in any case.
        order = torch.where(background, each.detach(), -1.0).argsort(descending=True)
        count = torch.minimum(positives.clamp(min=1) * self.negatives, background.sum())
        used = ~background
        used[order] |= torch.arange(len(order), device=order.device) < count
        return {"loss_perceive": self.loss_weight * (each * used).sum() / used.sum().clamp(min=1)}

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """(N, K, h, w) float32 of the classes, without background."""
        return logits.float().softmax(dim=1)[:, :-1] if self.classifier == "softmax" else logits.float().sigmoid()

    @torch.no_grad()
    def originals(self, perceived: Perceived, image_sizes: Sequence[tuple[int, int]]) -> list[Instances]:
        """Choose the original set in inference: peaks of the class maps above the threshold, the best first.

        Args:
            perceived: from `forward`.
            image_sizes: (height, width) without padding.

        Returns:
            per image, with `cells` (n,) index, `pred_classes`, `scores`, and the fields of `at_cells`.
        """
        peaks = flat_cells([point_nms(self.probabilities(level)) for level in perceived.logits])
        scores, classes = peaks.max(dim=2)
        result = []
        for image, size in enumerate(image_sizes):
            best, cells = scores[image].topk(min(self.max_originals, scores.shape[1]))
            cells = cells[best > self.score_threshold]
            found = self.at_cells(perceived, image, cells, size)
            found.scores, found.pred_classes = scores[image, cells], classes[image, cells]
            result.append(found)
        return result

    def at_cells(self, perceived: Perceived, image: int, cells: torch.Tensor, size: tuple[int, int]) -> Instances:
        """The instances at cells (n,) of an image, with `cells`, `locations` (n, 2), `fpn_levels` and `descriptors`."""
        descriptors = torch.cat([level[image].flatten(1) for level in perceived.descriptors], dim=1)[:, cells].T
        return Instances(
            size,
            cells=cells,
            locations=perceived.grid.centers[cells],
            fpn_levels=perceived.grid.levels[cells],
            descriptors=descriptors,
        )
