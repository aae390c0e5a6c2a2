"""SIM (arXiv:2303.08578) on Mask2Former: a teacher and prototypes on the embeddings of its pixels."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.structures import Boxes, Instances
from detectron2.structures.boxes import matched_pairwise_iou
from torch import nn
from torch.nn import functional as F

from instseg_d2.layers.mask_boxes import tight_boxes

from ..condinst.losses import sample_masks
from ..mask2former.box_criterion import BoxLoss, BoxTargets
from ..mask2former.criterion import QueryStep, image_targets, layer_suffixes
from ..mask2former.matcher import Matches
from ..mask2former.model import Mask2Former
from .learner import PseudoMaskLearner, nothing


@dataclass(frozen=True)
class Teaching:
    """What the teacher says of a step: M objects in the order of the images, on the grid (H, W) of the mask features.

    Attributes:
        features: (N, D, H, W), its embeddings of the pixels.
        instance_maps: (M, H, W) float32, see `merge_positives`.
        gt_inds: (K,) int64, object of each mask that was merged, in the concatenation of all images' objects.
    """

    features: torch.Tensor
    instance_maps: torch.Tensor
    gt_inds: torch.Tensor


class SIMMask2Former(PseudoMaskLearner, Mask2Former):
    """Mask2Former that learns masks from boxes: its box losses, pseudo masks, and objects pasted by pseudo masks.

    As `SIM`, of whose parts it is made, with the features of the masks for those of the mask branch. One query answers
    for an object, so one layer has a single mask of it; the masks that all layers of the teacher match to an object
    are its positives, weighted by the IoU of their tight boxes. Pseudo masks, and those of pasted objects, are taught
    after every layer, as the losses of boxes are.

    Neither this pooling of layers nor the factors on the losses are in the paper, which says nothing of them. Images
    with pasted objects go through the student in a second pass, which teaches the masks of pasted objects and nothing
    else.

    Args:
        supervision: losses of boxes and colors.
        pseudo_weight: lambda_1 times what Mask2Former multiplies its mask losses with, see `PseudoMaskLearner`.
        paste_weight: likewise with lambda_2.
        kwargs: see `PseudoMaskLearner` (the labeler, the losses of pseudo masks and pastes, the teacher) and
            `Mask2Former`.
    """

    def __init__(self, *, supervision: BoxLoss, pseudo_weight: float = 2.5, paste_weight: float = 5.0, **kwargs):
        super().__init__(supervision=supervision, pseudo_weight=pseudo_weight, paste_weight=paste_weight, **kwargs)

    def students(self) -> dict[str, nn.Module]:
        return {"backbone": self.backbone, "pixel_decoder": self.pixel_decoder, "decoder": self.decoder}

    def enlarge(self, maps: torch.Tensor, stride: int) -> torch.Tensor:
        return F.interpolate(maps, scale_factor=stride, mode="bilinear", align_corners=False)

    def forward(self, batched_inputs: list[dict]) -> dict[str, torch.Tensor] | list[dict[str, Instances]]:
        """Compute losses (training) or predictions (inference), see `Mask2Former.forward`.

        Returns:
            in training beside the losses of the supervision `loss_pseudo` and, with `copy_paste`, `loss_paste`, of
            every layer; zeros that keep the graph before the warm-up is over, and where there is nothing to learn.
        """
        if self.training:
            self.begin_step()
        return super().forward(batched_inputs)

    def query_losses(self, step: QueryStep) -> dict[str, torch.Tensor]:
        """The losses of boxes and colors, of pseudo masks and of pasted objects."""
        targets = self.supervision.targets(step)
        matches = list(self.supervision.match(step.outputs, targets))
        taught = self.teach(step, targets)
        losses = self.supervision.losses(step.outputs, matches, targets)
        losses.update(self._pseudo_losses(step, matches, targets, taught))
        self._learn_prototypes(step, targets, taught)
        if self.copy_paste is not None:
            losses.update(self._paste_losses(step, taught))
        return losses

    @torch.no_grad()
    def teach(self, step: QueryStep, targets: BoxTargets) -> Teaching:
        """Let the teacher look at a step: its features, and its masks of the objects, of all layers together."""
        features = self.teacher["pixel_decoder"](self.teacher["backbone"](step.images.tensor))
        boxes = torch.cat([image.boxes for image in targets.images])
        masks, ious, objects = [], [], []
        for output in self.teacher["decoder"](features):
            pairs = self.supervision.matcher(output, targets.images)
            logits = output.mask_logits[pairs.images, pairs.queries].float()
            height, width = logits.shape[1:]
            tight = tight_boxes(logits > 0) / boxes.new_tensor([width, height, width, height])
            ious.append(matched_pairwise_iou(Boxes(tight), Boxes(boxes[pairs.objects])))
            masks.append(logits.sigmoid())
            objects.append(pairs.objects)
        found = torch.cat(objects)
        maps = self.labeler.merge(torch.cat(masks), torch.cat(ious), found, len(boxes))
        return Teaching(features.masks, maps, found)

    def _pseudo_losses(
        self, step: QueryStep, matches: Sequence[Matches], targets: BoxTargets, taught: Teaching
    ) -> dict[str, torch.Tensor]:
        if not self.is_warm:
            return {f"loss_pseudo{suffix}": nothing(x.mask_logits) for suffix, x in layer_suffixes(step.outputs)}
        classes = [image.classes for image in targets.images]
        pseudo = self.labeler(taught.features, taught.instance_maps, targets.regions, classes)
        losses = {}
        for (suffix, output), pairs in zip(layer_suffixes(step.outputs), matches, strict=True):
            logits = output.mask_logits[pairs.images, pairs.queries].float()
            loss = self.pseudo_loss(logits, pseudo.targets[pairs.objects], pseudo.valid[pairs.objects])
            losses[f"loss_pseudo{suffix}"] = self.pseudo_weight * loss
        return losses

    def _learn_prototypes(self, step: QueryStep, targets: BoxTargets, taught: Teaching) -> None:
        """Before the end of the warm-up too."""
        counts = [len(image.classes) for image in targets.images]
        ends = torch.tensor(counts).cumsum(0).tolist()
        rows = [
            taught.gt_inds[(taught.gt_inds >= end - count) & (taught.gt_inds < end)] - (end - count)
            for count, end in zip(counts, ends, strict=True)
        ]
        self.labeler.learn(
            step.mask_features.detach(),
            taught.features,
            taught.instance_maps,
            targets.regions,
            [image.classes for image in targets.images],
            rows,
        )

    def _paste_losses(self, step: QueryStep, taught: Teaching) -> dict[str, torch.Tensor]:
        """The losses of the objects that are pasted into a copy of the step's images."""
        layers = layer_suffixes(step.outputs)
        batch = None
        if self.is_warm:
            truth = [item["instances"] for item in step.inputs]
            batch = self.pasted_copy(step.inputs, self.objects_to_paste(truth, taught.instance_maps, step.stride))
        if batch is None:
            return {f"loss_paste{suffix}": nothing(output.mask_logits) for suffix, output in layers}
        pasted = torch.cat([item["instances"].gt_pasted for item in batch]).to(self.device)
        return self._losses_of_pasted(self.training_pass(batch), pasted)

    def _losses_of_pasted(self, step: QueryStep, pasted: torch.Tensor) -> dict[str, torch.Tensor]:
        """The losses of pasted objects, whose masks hold in the whole image."""
        size = tuple(step.mask_features.shape[-2:])
        masks = torch.cat([sample_masks(x, size, step.stride) for x in step.truth])
        targets = image_targets(step, [None for _ in step.truth])
        losses = {}
        for suffix, output in layer_suffixes(step.outputs):
            pairs = self.supervision.matcher(output, targets)
            logits = output.mask_logits[pairs.images, pairs.queries].float()
            loss = self.paste_loss(logits, masks[pairs.objects], pasted[pairs.objects][:, None, None])
            losses[f"loss_paste{suffix}"] = self.paste_weight * loss
        return losses
