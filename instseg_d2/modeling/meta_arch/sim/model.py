"""SIM (arXiv:2303.08578) on CondInst: masks from boxes, a teacher and prototypes of the classes."""

import dataclasses

import torch
from detectron2.structures import Instances
from detectron2.structures.boxes import matched_pairwise_iou
from detectron2.utils.events import get_event_storage
from torch import nn
from torch.nn import functional as F

from instseg_d2.layers.upsample import aligned_bilinear

from ..condinst.losses import MaskStep, sample_masks
from ..condinst.model import CondInst
from .box_loss import SIMBoxLoss, TaughtStep
from .learner import PseudoMaskLearner, images_and_truth, nothing, replaced
from .pseudo_masks import PseudoMasks
from .teacher import has_batch_norm

PASTES = ("copy", "batch")
UPSAMPLINGS = ("aligned", "bilinear")


class SIM(PseudoMaskLearner, CondInst):
    """CondInst that learns masks from boxes: BoxInst's losses, pseudo masks, and objects pasted by pseudo masks.

    In a training step, a momentum teacher draws the masks of the student's positives. Its masks of an object, weighted
    by how well the boxes of their locations fit, are the instance map; its features and the prototypes of the object's
    class give the semantic map. Both together make a pseudo mask, which is taught from `warmup_iters` on. The
    prototypes learn in every step, from the student's features where the instance map is sure.

    The paper is the default; what the released code does otherwise is an argument of this, of `PseudoLabeler`,
    `Prototypes`, the thresholds, the losses and `SIMBoxLoss`.

    Naming: N images, K positives, M objects of all images, C channels of the mask features, H x W the grid of masks.

    Args:
        supervision: losses of boxes and colors.
        pseudo_weight: lambda_1, see `PseudoMaskLearner`.
        paste_weight: lambda_2, see there.
        pseudo_ramp_iters: training steps, counted from the first one, in which `pseudo_weight` grows from 0; 0 for
            none, 270000 in the released code.
        teacher_head_on_student: the teacher's detection head sees the student's features, as in the released code, and
            only its mask branch the teacher's.
        feature_upsampling: "aligned" brings features to the grid of the masks as the masks themselves; "bilinear" half
            a point beside it, as in the released code.
        paste_into: "copy": images with pasted objects go through the student in a second pass, which teaches the masks
            of pasted objects and nothing else. "batch": they take the place of the images and teach everything, as in
            the released code.
        kwargs: see `PseudoMaskLearner` (the labeler, the losses of pseudo masks and pastes, the teacher) and
            `CondInst`.

    Raises:
        ValueError: an option has a value that it does not know, or parts do not fit.
    """

    def __init__(
        self,
        *,
        supervision: SIMBoxLoss,
        pseudo_weight: float = 0.5,
        paste_weight: float = 1.0,
        pseudo_ramp_iters: int = 0,
        teacher_head_on_student: bool = False,
        feature_upsampling: str = "aligned",
        paste_into: str = "copy",
        **kwargs,
    ):
        super().__init__(supervision=supervision, pseudo_weight=pseudo_weight, paste_weight=paste_weight, **kwargs)
        if paste_into not in PASTES or feature_upsampling not in UPSAMPLINGS:
            raise ValueError(
                f"paste_into='{paste_into}' must be one of {PASTES}, and feature_upsampling='{feature_upsampling}' one "
                f"of {UPSAMPLINGS}"
            )
        self.pseudo_ramp_iters = pseudo_ramp_iters
        self.teacher_head_on_student = teacher_head_on_student
        self.feature_upsampling = feature_upsampling
        self.paste_into = paste_into

    def students(self) -> dict[str, nn.Module]:
        return {"backbone": self.backbone, "head": self.detector.head, "mask_branch": self.mask_branch}

    def enlarge(self, maps: torch.Tensor, stride: int) -> torch.Tensor:
        return aligned_bilinear(maps, stride)

    def forward(self, batched_inputs: list[dict]) -> dict[str, torch.Tensor] | list[dict[str, Instances]]:
        """Compute losses (training) or predictions (inference), see `CondInst.forward`.

        Returns:
            in training beside the losses of the detector and the supervision `loss_pseudo` and, with `copy_paste`,
            `loss_paste`; zeros that keep the graph before the warm-up is over, and where there is nothing to learn.
        """
        if not self.training:
            return super().forward(batched_inputs)
        self.begin_step()
        if self.copy_paste is not None and self.paste_into == "batch" and self.is_warm:
            batched_inputs = replaced(batched_inputs, *self.copy_paste.paste(*images_and_truth(batched_inputs)))
        return super().forward(batched_inputs)

    def mask_losses(self, step: MaskStep) -> dict[str, torch.Tensor]:
        """The losses of boxes and colors, of pseudo masks and of pasted objects."""
        taught = self.teach(step)
        losses = {**self.supervision(taught), "loss_pseudo": self._pseudo_loss(taught)}
        if self.copy_paste is not None:
            losses["loss_paste"] = self.paste_weight * self._paste_loss(taught)
        return losses

    @torch.no_grad()
    def teach(self, step: MaskStep) -> TaughtStep:
        """Let the teacher look at a step: its features and its masks of the student's positives."""
        features = self.teacher["backbone"](step.images.tensor)
        seen = step.features if self.teacher_head_on_student else features
        predictions = self.teacher["head"](
            [seen[name] for name in self.detector.head_in_features],
            # Its classes are not asked for, but the statistics of a BatchNorm are.
            classify=has_batch_norm(self.teacher["head"].cls_subnet),
        )
        everywhere = self.detector.positives(predictions, step.targets)
        found = [x[chosen] for x, chosen in zip(everywhere, step.rows, strict=True)]
        mask_features = self.teacher["mask_branch"](features)
        masks = self.mask_logits(step.images, mask_features, found).sigmoid()
        ious = torch.cat([matched_pairwise_iou(x.pred_boxes, x.gt_boxes) for x in found])
        known = {field.name: getattr(step, field.name) for field in dataclasses.fields(MaskStep)}
        return TaughtStep(
            **known,
            teacher_features=self._on_grid_of(step, mask_features),
            instance_maps=self.labeler.merge(masks, ious, step.gt_inds, sum(len(x) for x in step.truth)),
            ious=ious,
        )

    def _on_grid_of(self, step: MaskStep, features: torch.Tensor) -> torch.Tensor:
        """Mask features (N, C, H, W) on the grid of the logits, float32."""
        factor = step.logits.shape[-1] // features.shape[-1]
        if self.feature_upsampling == "aligned":
            return aligned_bilinear(features.float(), factor)
        return F.interpolate(features.float(), scale_factor=factor, mode="bilinear", align_corners=False)

    def _pseudo_loss(self, step: TaughtStep) -> torch.Tensor:
        """The loss of the pseudo masks; then the prototypes learn, before the end of the warm-up too."""
        size = step.logits.shape[1:]
        regions = torch.cat([self.supervision.object_maps(x, size, step.stride) for x in step.truth])
        classes = [x.gt_classes for x in step.truth]
        loss = nothing(step.logits)
        if self.is_warm:
            pseudo = self.labeler(step.teacher_features, step.instance_maps, regions, classes)
            _log_shares(pseudo, regions)
            ramp = min(int(self.iterations) / self.pseudo_ramp_iters, 1.0) if self.pseudo_ramp_iters else 1.0
            loss = self.pseudo_loss(step.logits, pseudo.targets[step.gt_inds], pseudo.valid[step.gt_inds])
            loss = self.pseudo_weight * ramp * loss
        self.labeler.learn(
            self._on_grid_of(step, step.mask_features.detach()),
            step.teacher_features,
            step.instance_maps,
            regions,
            classes,
            [x.gt_inds for x in step.positives],
        )
        return loss

    def _paste_loss(self, step: TaughtStep) -> torch.Tensor:
        """The loss of pasted objects, of this step or of its copy with objects pasted in."""
        if not self.is_warm:
            return nothing(step.logits)
        images, truth = images_and_truth(step.inputs)
        objects = self.objects_to_paste(truth, step.instance_maps, step.stride)
        if self.paste_into == "batch":
            self.copy_paste.remember(images, objects)
            return self._loss_of_pasted(step)
        batch = self.pasted_copy(step.inputs, objects)
        if batch is None:
            return nothing(step.logits)
        _, second = self.training_pass(batch, masks_of="gt_pasted")
        return self._loss_of_pasted(second)

    def _loss_of_pasted(self, step: MaskStep) -> torch.Tensor:
        """The loss of the masks of pasted objects, which hold in the whole image."""
        size = step.logits.shape[1:]
        masks = torch.cat([sample_masks(x, size, step.stride) for x in step.truth])[step.gt_inds]
        pasted = torch.cat([x.gt_pasted for x in step.truth])[step.gt_inds]
        return self.paste_loss(step.logits, masks, pasted[:, None, None])


@torch.no_grad()
def _log_shares(pseudo: PseudoMasks, regions: torch.Tensor) -> None:
    """Log what share of the boxes' pixels is foreground, and what share does not count."""
    counts = torch.stack([pseudo.targets.sum(), (regions & ~pseudo.valid).sum(), regions.sum().clamp(min=1)]).tolist()
    get_event_storage().put_scalar("pseudo_foreground", counts[0] / counts[2])
    get_event_storage().put_scalar("pseudo_ignored", counts[1] / counts[2])
