"""What teaches CondInst its masks: the interface, and full supervision. Supervision by boxes is in `boxinst`."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.structures import ImageList, Instances
from torch import nn
from torch.nn import functional as F

from instseg_d2.layers.box_mask_losses import dice_loss

from ..base import ground_truth_masks, visible_masks
from ..fcos.targets import LocationTargets, batch_gt_inds


@dataclass(frozen=True, kw_only=True)
class MaskStep:
    """One training step as the mask losses see it: N images, K chosen positives in the order of the images.

    Attributes:
        inputs: per image, from the data loader.
        images: the padded batch, normalized.
        truth: per image, the ground truth.
        positives: per image, see `FCOS.positives`.
        mask_features: (N, C, H_f, W_f), output of the mask branch.
        logits: (K, H, W) float32, masks on the grid of `stride`.
        features: levels of the backbone by name; this and what follows is for models that let a second network look.
        targets: of all locations; with `rows`, the same positives of other predictions can be collected.
        rows: per image, which of all positives were chosen.
    """

    inputs: Sequence[dict[str, Any]]
    images: ImageList
    truth: Sequence[Instances]
    positives: Sequence[Instances]
    mask_features: torch.Tensor
    logits: torch.Tensor
    features: Mapping[str, torch.Tensor] | None = None
    targets: LocationTargets | None = None
    rows: Sequence[torch.Tensor] | None = None

    @property
    def stride(self) -> int:
        """Pixels between the points of the logits; the first lies at `stride // 2`."""
        return self.images.tensor.shape[-1] // self.logits.shape[-1]

    @property
    def image_inds(self) -> torch.Tensor:
        """(K,) int64, image of each positive."""
        counts = torch.tensor([len(x) for x in self.positives], device=self.logits.device)
        return torch.repeat_interleave(counts, output_size=len(self.logits))

    @property
    def gt_inds(self) -> torch.Tensor:
        """(K,) int64, object of each positive in the concatenation of all images' ground truth."""
        return batch_gt_inds(self.positives, self.truth)


class MaskSupervision(nn.Module, ABC):
    """Losses of instance masks, and what it knows of where the objects are."""

    @abstractmethod
    def forward(self, step: MaskStep) -> dict[str, torch.Tensor]:
        """Compute `loss_<part>`: the same keys in every step, without positives zeros that keep the graph."""

    @abstractmethod
    def object_maps(self, truth: Instances, size: tuple[int, int], stride: int) -> torch.Tensor:
        """Where the M objects of an image are, as far as this supervision may look.

        Args:
            truth: of one image; may be empty, and lack masks then.
            size: (height, width) of the map.
            stride: the map's points are the pixels `stride // 2 + stride * i` of the image.

        Returns:
            (M, *size) bool.
        """

    @abstractmethod
    def object_areas(self, truth: Instances) -> torch.Tensor:
        """Size (M,) of the objects of an image, in pixels."""


def sample_masks(truth: Instances, size: tuple[int, int], stride: int) -> torch.Tensor:
    """Ground-truth masks on a coarser grid, see `MaskSupervision.object_maps`: points are looked up, not averaged.

    Raises:
        DatasetError: there are objects, but no masks.
    """
    if len(truth) == 0:
        return torch.zeros(0, *size, dtype=torch.bool, device=truth.gt_boxes.device)
    points = ground_truth_masks(truth)[:, stride // 2 :: stride, stride // 2 :: stride]
    height, width = points.shape[1:]
    return F.pad(points, (0, size[1] - width, 0, size[0] - height))


class MaskDiceLoss(MaskSupervision):
    """Full supervision (CondInst, arXiv:2003.05664, Sec. 3.4): the dice loss of every positive, averaged.

    Positives whose mask `gt_has_mask` hides are left out, of the sum and of the number it is divided by.

    Args:
        loss_weight: factor on `loss_mask`.
    """

    def __init__(self, *, loss_weight: float = 1.0):
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, step: MaskStep) -> dict[str, torch.Tensor]:
        """Compute `loss_mask`."""
        size = step.logits.shape[1:]
        maps = torch.cat([self.object_maps(truth, size, step.stride) for truth in step.truth])
        allowed = torch.cat([visible_masks(truth) for truth in step.truth])
        rows = allowed[step.gt_inds].nonzero()[:, 0]
        logits = step.logits[rows]
        losses = dice_loss(logits.sigmoid(), maps[step.gt_inds[rows]])
        # The sum of nothing keeps the graph, its mean would be NaN.
        return {"loss_mask": self.loss_weight * losses.sum() / max(len(rows), 1)}

    def object_maps(self, truth: Instances, size: tuple[int, int], stride: int) -> torch.Tensor:
        return sample_masks(truth, size, stride)

    def object_areas(self, truth: Instances) -> torch.Tensor:
        if len(truth) == 0:
            return truth.gt_boxes.area()
        return ground_truth_masks(truth).sum(dim=(1, 2))
