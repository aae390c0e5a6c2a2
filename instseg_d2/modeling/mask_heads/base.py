"""What every mask head is, whatever detector finds its regions."""

from collections.abc import Sequence

import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import get_event_storage
from torch import nn

from instseg_d2.layers.mask_losses import mask_bce, mask_error_rates, pick_channel

from .targets import crop_targets, supervised

# (R, C, M, M), or several such maps (and whatever else the losses need) by name, of which "masks" are the masks.
Logits = torch.Tensor | dict[str, torch.Tensor]


def mask_logits(logits: Logits) -> torch.Tensor:
    """The (R, C, M, M) mask logits among what `MaskHead.layers` returns."""
    return logits["masks"] if isinstance(logits, dict) else logits


def attach(instances: Sequence[Instances], field: str, values: torch.Tensor) -> None:
    """Give each image's instances their part of `values` (R, ...) as a field; R instances in all, in this order."""
    for x, part in zip(instances, values.split([len(x) for x in instances]), strict=True):
        x.set(field, part)


class MaskHead(nn.Module):
    """Predicts masks of regions: `layers`, then `losses` in training or `inference`.

    A head defines `layers`. As they stand here, `losses` and `inference` are those of Mask R-CNN; a head that predicts
    more extends them, and takes its maps out of the dict that its `layers` return.

    R counts the regions of all images: in training foreground proposals with `proposal_boxes` and the `gt_*` fields of
    the object that each is matched with, in inference detections with `pred_boxes` and `pred_classes`. R may be 0.

    Args:
        loss_weight: factor on `loss_mask`.
    """

    def __init__(self, *, loss_weight: float = 1.0):
        super().__init__()
        self.loss_weight = loss_weight

    def forward(
        self, x: torch.Tensor | dict[str, torch.Tensor], instances: list[Instances]
    ) -> dict[str, torch.Tensor] | list[Instances]:
        """Compute losses (training) or attach masks (inference).

        Args:
            x: (R, C, H, W) features pooled at the boxes; or, when the detector has `mask_pooler=None`, its feature maps
                (N, C, H_l, W_l) by name, and the head pools for itself at `boxes(instances)`.
            instances: per image.

        Returns:
            in training losses `loss_<part>`, the same keys in every iteration; in inference the same instances, now
            with `pred_masks` (R_i, 1, M, M), probabilities relative to the box.
        """
        _, logits = self.layers(x, instances)
        return self.losses(logits, instances) if self.training else self.inference(logits, instances)

    def layers(
        self, x: torch.Tensor | dict[str, torch.Tensor], instances: list[Instances]
    ) -> tuple[torch.Tensor, Logits]:
        """The network itself, which other heads may wrap: a student reads the teacher's features and logits.

        Args:
            x: see `forward`.
            instances: see `forward`.

        Returns:
            (R, C', M, M) features that the masks are predicted from, and the logits: (R, K, M, M), K classes or 1 for
            class-agnostic masks, or a dict with these as `"masks"` beside other outputs.
        """
        raise NotImplementedError

    def boxes(self, instances: list[Instances]) -> list[Boxes]:
        """The boxes of the regions, per image: proposals in training, detections in inference."""
        return [x.proposal_boxes if self.training else x.pred_boxes for x in instances]

    def losses(self, logits: Logits, instances: list[Instances]) -> dict[str, torch.Tensor]:
        """Compute `loss_mask`: binary cross entropy of the mask of the true class.

        Only regions that `gt_has_mask` allows count, in the sum and in the number that it is divided by. Logs
        `mask_rcnn/accuracy`, `mask_rcnn/false_positive` and `mask_rcnn/false_negative`, under detectron2's names.

        Args:
            logits: from `layers`.
            instances: with `gt_masks` and `gt_classes`.
        """
        rows, chosen = supervised(instances)
        maps = mask_logits(logits)[rows]
        if not chosen:
            return {"loss_mask": maps.float().sum()}
        own = pick_channel(maps, torch.cat([x.gt_classes for x in chosen]))
        targets = crop_targets(chosen, own.shape[-1])
        storage = get_event_storage()
        for name, rate in mask_error_rates(own, targets).items():
            storage.put_scalar(f"mask_rcnn/{name}", rate)
        return {"loss_mask": self.loss_weight * mask_bce(own, targets)}

    def inference(self, logits: Logits, instances: list[Instances]) -> list[Instances]:
        """Attach `pred_masks`, the mask of the predicted class.

        Args:
            logits: from `layers`.
            instances: with `pred_classes`.
        """
        own = pick_channel(mask_logits(logits), torch.cat([x.pred_classes for x in instances]))
        attach(instances, "pred_masks", own.float().sigmoid()[:, None])
        return instances
