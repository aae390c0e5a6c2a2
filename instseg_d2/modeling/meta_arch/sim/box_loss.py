"""Supervision by boxes around SIM: BoxInst's losses as SIM has them, and boxes that are taken for masks."""

from dataclasses import dataclass

import torch
from detectron2.structures import Instances

from instseg_d2.layers.box_maps import box_maps
from instseg_d2.layers.neighbors import neighbor_similarity

from ..condinst.boxinst import BoxInstLoss
from ..condinst.losses import MaskDiceLoss, MaskStep, sample_masks


@dataclass(frozen=True, kw_only=True)
class TaughtStep(MaskStep):
    """A training step that a teacher has looked at; M objects in the order of the images.

    Attributes:
        teacher_features: (N, C, H, W), the teacher's mask features on the grid of the logits.
        instance_maps: (M, H, W) float32, see `merge_positives`.
        ious: (K,), of the teacher's box at each positive with that of its object.
    """

    teacher_features: torch.Tensor
    instance_maps: torch.Tensor
    ious: torch.Tensor


class SIMBoxLoss(BoxInstLoss):
    """`BoxInstLoss` that knows pasted objects, and may compare neighbors by more than color.

    Args:
        feature_similarity: multiply the similarity of colors by exp(-|f_i - f_j|) of the teacher's mask features, as
            the released code does and the paper does not say.
        kwargs: see `BoxInstLoss`.
    """

    def __init__(self, *, feature_similarity: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.feature_similarity = feature_similarity

    def object_maps(self, truth: Instances, size: tuple[int, int], stride: int) -> torch.Tensor:
        """The filled boxes; after a paste (`gt_pasted`) without what is pasted over them, and the pasted masks.

        Masks of the data set are not looked at: only a paste, which makes its masks itself, gives `gt_pasted`.
        """
        if truth.has("gt_pasted"):
            return sample_masks(truth, size, stride)
        return super().object_maps(truth, size, stride)

    @torch.no_grad()
    def color_similarity(self, step: TaughtStep) -> torch.Tensor:
        """As `BoxInstLoss.color_similarity`, with `feature_similarity` times that of the features."""
        similarity = super().color_similarity(step)
        if not self.feature_similarity:
            return similarity
        features = step.teacher_features.float()
        everywhere = torch.ones_like(features[:, 0], dtype=torch.bool)
        return similarity * neighbor_similarity(
            features, everywhere, size=self.colors.size, dilation=self.colors.dilation, theta=1.0
        )


class BoxesAsMasks(MaskDiceLoss):
    """What a model learns that takes the boxes for masks: the dice loss against filled boxes, for comparison.

    Looks at no mask, whatever the ground truth holds.

    Args:
        loss_weight: factor on `loss_mask`.
    """

    def object_maps(self, truth: Instances, size: tuple[int, int], stride: int) -> torch.Tensor:
        """The filled boxes, see `box_maps`."""
        return box_maps(truth.gt_boxes.tensor, size, stride)

    def object_areas(self, truth: Instances) -> torch.Tensor:
        return truth.gt_boxes.area()
