"""What every mask head is, whatever detector finds its regions."""

from collections.abc import Sequence

import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import get_event_storage
from torch import nn

from instseg_d2.layers.mask_losses import mask_bce, mask_error_rates, pick_channel

from .targets import crop_targets, supervised

# (R, C, M, M), or several such maps by name, of which "masks" are the masks.
Logits = torch.Tensor | dict[str, torch.Tensor]


def by_name(logits: Logits) -> dict[str, torch.Tensor]:
    """What `MaskHead.layers` returns, as a dict."""
    return logits if isinstance(logits, dict) else {"masks": logits}


def attach(instances: Sequence[Instances], field: str, values: torch.Tensor) -> None:
    """Give each image's instances their part of `values` (R, ...) as a field; R instances in all, in this order."""
    for x, part in zip(instances, values.split([len(x) for x in instances]), strict=True):
        x.set(field, part)


class MaskHead(nn.Module):
    """Predicts masks of regions: `layers`, then `losses` in training or `inference`.

    A head defines `layers`. As they stand here, losses and inference are those of Mask R-CNN; a head that predicts more
    maps returns them by name from `layers`, lists its losses in `loss_names`, and extends `map_losses` and `inference`.

    R counts the regions of all images: in training foreground proposals with `proposal_boxes` and the `gt_*` fields of
    the object that each is matched with, in inference detections with `pred_boxes` and `pred_classes`. R may be 0.

    Args:
        loss_weight: factor on `loss_mask`.
    """

    def __init__(self, *, loss_weight: float = 1.0):
        super().__init__()
        self.loss_weight = loss_weight

    @property
    def loss_names(self) -> list[str]:
        """Keys of the losses, the same in every iteration and on every rank."""
        return ["loss_mask"]

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
        """Compute the losses of the regions that `gt_has_mask` allows; zeros that keep the graph if there is none.

        Args:
            logits: from `layers`.
            instances: with `gt_masks`, `gt_classes`, and what else `map_losses` needs.
        """
        rows, chosen = supervised(instances)
        maps = {name: values[rows] for name, values in by_name(logits).items()}
        if not chosen:
            zero = torch.stack([values.float().sum() for values in maps.values()]).sum()
            return dict.fromkeys(self.loss_names, zero)
        classes = torch.cat([x.gt_classes for x in chosen])
        own = {name: pick_channel(values, classes) for name, values in maps.items()}
        return self.map_losses(own, crop_targets(chosen, own["masks"].shape[-1]), chosen)

    def map_losses(
        self, maps: dict[str, torch.Tensor], targets: torch.Tensor, instances: list[Instances]
    ) -> dict[str, torch.Tensor]:
        """Compute `loss_mask`, the binary cross entropy of the mask of the true class.

        Logs `mask_rcnn/accuracy`, `mask_rcnn/false_positive` and `mask_rcnn/false_negative`, under detectron2's names.

        Args:
            maps: logits of the true classes by name, (K, M, M) each; K > 0 regions whose mask may be seen.
            targets: (K, M, M) float32, 0 or 1, from `gt_masks`.
            instances: these regions, per image that has any.
        """
        storage = get_event_storage()
        for name, rate in mask_error_rates(maps["masks"], targets).items():
            storage.put_scalar(f"mask_rcnn/{name}", rate)
        return {"loss_mask": self.loss_weight * mask_bce(maps["masks"], targets)}

    def inference(self, logits: Logits, instances: list[Instances]) -> list[Instances]:
        """Attach `pred_masks`, the mask of the predicted class.

        Args:
            logits: from `layers`.
            instances: with `pred_classes`.
        """
        own = pick_channel(by_name(logits)["masks"], torch.cat([x.pred_classes for x in instances]))
        attach(instances, "pred_masks", own.float().sigmoid()[:, None])
        return instances
