"""BoxInst with some masks: a mask where there is one, box and colours where it is hidden."""

from dataclasses import replace

import torch
from detectron2.structures import Instances

from ..base import visible_masks
from .boxinst import BoxInstLoss
from .losses import MaskDiceLoss, MaskStep, MaskSupervision


def seen_positives(step: MaskStep) -> torch.Tensor:
    """(K,) bool: the positives of a step whose mask may be seen."""
    return torch.cat([visible_masks(truth) for truth in step.truth])[step.gt_inds]


def select_positives(step: MaskStep, rows: torch.Tensor) -> MaskStep:
    """The step with some of its positives alone, by rows (K,) bool."""
    parts = rows.split([len(x) for x in step.positives])
    positives: list[Instances] = [x[part] for x, part in zip(step.positives, parts, strict=True)]
    return replace(step, positives=positives, logits=step.logits[rows])


class PartialBoxInstLoss(MaskSupervision):
    """Each positive has the losses that its truth allows, each averaged over the positives that have it.

    What BoxInst's author answers to how its semi-supervised figures came about, and so what Teacher-Student takes for
    "BoxInst" in the partially supervised setting.

    Args:
        masks: of positives whose mask may be seen; `loss_mask`.
        boxes: of the others; `loss_prj` and `loss_pairwise`.
    """

    def __init__(self, *, masks: MaskDiceLoss, boxes: BoxInstLoss):
        super().__init__()
        self.masks = masks
        self.boxes = boxes

    def forward(self, step: MaskStep) -> dict[str, torch.Tensor]:
        """Compute `loss_mask`, `loss_prj` and `loss_pairwise`."""
        return {**self.masks(step), **self.boxes(select_positives(step, ~seen_positives(step)))}

    def object_maps(self, truth: Instances, size: tuple[int, int], stride: int) -> torch.Tensor:
        """Masks, with the loader's filled boxes in the place of hidden ones."""
        return self.masks.object_maps(truth, size, stride)

    def object_areas(self, truth: Instances) -> torch.Tensor:
        return self.masks.object_areas(truth)
