"""Teacher-Student masks on CondInst and BoxInst: two mask networks an instance, one of them class-specific.

K = positives, maps of size (H, W).
"""

from collections.abc import Sequence

import torch
from detectron2.layers import ROIAlign
from detectron2.structures import ImageList, Instances
from detectron2.utils.events import get_event_storage
from torch import nn
from torch.nn import functional as F

from instseg_d2.layers.box_maps import box_maps
from instseg_d2.layers.box_mask_losses import dice_loss

from ...mask_heads.base import attach
from ...pseudo_masks import PseudoMasks
from .head import Controller, DynamicMaskHead
from .losses import MaskStep
from .model import CondInst
from .partial import seen_positives

# Side of the grid of a box on which a CRF refines its mask and maps are kept; that of a region in Mask R-CNN.
_BOX_SIDE = 28


class PairedController(nn.Module):
    """Predicts the parameters of both networks of a location in training, the student's alone in inference.

    Args:
        teacher: of the class-agnostic network.
        student: of the class-specific one.

    Attributes:
        keep_teacher: predict both in inference too.
    """

    def __init__(self, *, teacher: Controller, student: Controller):
        super().__init__()
        self.teacher = teacher
        self.student = student
        self.keep_teacher = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, C, H, W) to (N, P, H, W); of both networks, the teacher's parameters come first."""
        student = self.student(x)
        return torch.cat([self.teacher(x), student], dim=1) if self.training or self.keep_teacher else student


class ClassMaskHead(DynamicMaskHead):
    """A dynamic mask head with an output a class, of which that of the instance's class is computed.

    With `num_classes` the last layer is static, a class's row of weights on the features of the dynamic layers (the
    paper's D x C matrix); without, all outputs are predicted, and `layers.out_channels` is the number of classes.
    Instances also need `pred_classes` or `gt_classes`.

    Args:
        layers: of the dynamic layers; with a static one behind them their `out_channels` are its inputs.
        num_classes: of the static layer; None for none.
        kwargs: of `DynamicMaskHead`.
    """

    def __init__(self, *, num_classes: int | None, **kwargs):
        super().__init__(**kwargs)
        self.predictor = None
        if num_classes is not None:
            width = self.layers.out_channels
            self.predictor = nn.Linear(width, num_classes)
            # One row for all classes, as if there were none: the features before it are the same for all, so rows with
            # signs of their own begin as inverted masks, from which the dice loss of a saturated map leads nowhere.
            with torch.no_grad():
                self.predictor.weight.copy_(torch.randn(width) * width**-0.5)
            nn.init.zeros_(self.predictor.bias)

    def parameters_of(self, instances: Sequence[Instances]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """See `DynamicMaskHead.parameters_of`."""
        weights, biases = super().parameters_of(instances)
        classes = torch.cat([x.pred_classes if x.has("pred_classes") else x.gt_classes for x in instances])
        if self.predictor is not None:
            last = self.predictor.weight[classes].float(), self.predictor.bias[classes].float()
            return [*weights, last[0][:, None]], [*biases, last[1][:, None]]
        rows = torch.arange(len(classes), device=classes.device)
        return [*weights[:-1], weights[-1][rows, classes][:, None]], [*biases[:-1], biases[-1][rows, classes][:, None]]


class TeacherStudentCondInst(CondInst):
    """CondInst whose class-agnostic masks teach class-specific ones where masks are hidden.

    The teacher is the CondInst or BoxInst that it would be alone, with its supervision; its losses keep their names.
    The student has `loss_student`, the dice loss of every positive against its mask or, if that is hidden, against what
    `pseudo_masks` makes of the teacher's. In inference there is the student alone: `checkpoint.teacher_student` makes a
    file of it for a `CondInst` with the same `mask_head`.

    Args:
        detector: with a `PairedController` as `extra` of its head.
        teacher_head: draws the teacher's masks.
        mask_head: the student's.
        pseudo_masks: what becomes of the teacher's masks; colours are those of the input image at the true box.
        pseudo_start: training iteration, as the trainer counts them, from which hidden masks are learned.
        student_weight: factor on `loss_student`.
        keep_aux: in inference also give, relative to the boxes, `pred_teacher_masks`, probabilities (D, 1, 28, 28), and
            `pred_pseudo_masks` (D, 1, 28, 28), what becomes of them before the rules that need ground truth (not for
            the method "crf").
        kwargs: of `CondInst`.
    """

    def __init__(
        self,
        *,
        teacher_head: DynamicMaskHead,
        mask_head: ClassMaskHead,
        pseudo_masks: PseudoMasks,
        pseudo_start: int = 0,
        student_weight: float = 1.0,
        keep_aux: bool = False,
        **kwargs,
    ):
        super().__init__(mask_head=mask_head, **kwargs)
        self.teacher_head = teacher_head
        self.pseudo_masks = pseudo_masks
        self.pseudo_start = pseudo_start
        self.student_weight = student_weight
        self.keep_aux = keep_aux

    @property
    def keep_aux(self) -> bool:
        """Whether inference gives the teacher's maps too; may be set."""
        return self.detector.head.extra.keep_teacher

    @keep_aux.setter
    def keep_aux(self, value: bool) -> None:
        # Only the controller runs before it is known which locations have masks.
        self.detector.head.extra.keep_teacher = value

    def mask_logits(
        self, images: ImageList, mask_features: torch.Tensor, instances: Sequence[Instances]
    ) -> torch.Tensor:
        """See `CondInst.mask_logits`: the teacher's in training, the student's in inference.

        In inference with `keep_aux` the instances get the maps of that.
        """
        if not self.training and not self.keep_aux:
            return super().mask_logits(images, mask_features, instances)
        count = self.teacher_head.layers.num_parameters
        teachers = [_with_extra(x, x.extra[:, :count]) for x in instances]
        taught = self.teacher_head(mask_features, teachers, images.tensor.shape[-1] // mask_features.shape[-1])
        if self.training:
            return taught
        students = [_with_extra(x, x.extra[:, count:]) for x in instances]
        logits = super().mask_logits(images, mask_features, students)
        self._attach_maps(instances, taught, logits, images.tensor.shape[-1] // logits.shape[-1])
        return logits

    def _attach_maps(
        self, instances: Sequence[Instances], teacher: torch.Tensor, student: torch.Tensor, stride: int
    ) -> None:
        """See `keep_aux`; logits (D, H, W) of all instances, and the stride of each."""
        boxes = []
        for x in instances:
            # What is left of a box in the end.
            inside = x.pred_boxes.clone()
            inside.clip(x.image_size)
            boxes.append(inside.tensor)
        rows = torch.arange(len(teacher), device=teacher.device)
        crops = [_crop(x.sigmoid()[:, None], torch.cat(boxes), rows, stride) for x in (teacher, student)]
        attach(instances, "pred_teacher_masks", crops[0])
        if not self.pseudo_masks.needs_colors:
            attach(instances, "pred_pseudo_masks", self.pseudo_masks(crops[0][:, 0], crops[1][:, 0])[:, None])

    def mask_losses(self, step: MaskStep) -> dict[str, torch.Tensor]:
        """The teacher's losses, by the supervision, and `loss_student`."""
        losses = self.supervision(step)
        count = self.teacher_head.layers.num_parameters
        students = [_with_extra(x, x.extra[:, count:]) for x in step.positives]
        logits = super().mask_logits(step.images, step.mask_features, students)
        seen = seen_positives(step)
        rows = seen if get_event_storage().iter < self.pseudo_start else torch.ones_like(seen)
        targets = self.student_targets(step, logits.detach(), seen)[rows]
        loss = dice_loss(logits[rows].sigmoid(), targets).sum() / max(len(targets), 1)
        return {**losses, "loss_student": self.student_weight * loss}

    @torch.no_grad()
    def student_targets(self, step: MaskStep, student: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """What the student learns of each positive.

        Args:
            step: with the teacher's logits.
            student: (K, H, W) logits.
            seen: (K,) bool, whose own mask may be looked at.

        Returns:
            (K, H, W) float32 in [0, 1].
        """
        size, stride = tuple(student.shape[1:]), step.stride
        maps = [self.supervision.object_maps(truth, size, stride) for truth in step.truth]
        targets = torch.cat(maps)[step.gt_inds].float()
        hidden = (~seen).nonzero()[:, 0]
        if len(hidden) == 0:
            return targets
        objects, images, rule = step.gt_inds[hidden], step.image_inds[hidden], self.pseudo_masks
        boxes = torch.cat([x.gt_boxes.tensor for x in step.truth])
        teacher = step.logits[hidden].sigmoid()
        if rule.needs_colors:
            teacher = self._refine(step, teacher, boxes[objects], images)
            pseudo = (teacher >= rule.threshold).float()
        else:
            pseudo = rule(teacher, student[hidden].sigmoid())
        if rule.without_seen:
            areas = [
                x[truth.gt_has_mask] if truth.has("gt_has_mask") else x
                for x, truth in zip(maps, step.truth, strict=True)
            ]
            pseudo = pseudo * ~torch.stack([x.any(dim=0) for x in areas])[images]
        if rule.inside_box:
            pseudo = pseudo * box_maps(boxes, size, stride)[objects]
        targets[hidden] = pseudo
        return targets

    def _refine(self, step: MaskStep, teacher: torch.Tensor, boxes: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Probabilities (U, H, W) after a CRF on a grid in each box; outside of the boxes 0."""
        colors = teacher.new_zeros(len(teacher), 3, _BOX_SIDE, _BOX_SIDE)
        for index, item in enumerate(step.inputs):
            own = (images == index).nonzero()[:, 0]
            colors[own] = _crop(item["image"][None].to(teacher), boxes[own], torch.zeros_like(own), 1)
        rows = torch.arange(len(teacher), device=teacher.device)
        crops = _crop(teacher[:, None], boxes, rows, step.stride)[:, 0]
        return _paste(self.pseudo_masks.crf(crops, colors), boxes, tuple(teacher.shape[1:]), step.stride)


def _with_extra(instances: Instances, extra: torch.Tensor) -> Instances:
    names = ("locations", "fpn_levels", "gt_classes", "pred_classes")
    fields = {name: instances.get(name) for name in names if instances.has(name)}
    return Instances(instances.image_size, **fields, extra=extra)


def _crop(maps: torch.Tensor, boxes: torch.Tensor, indices: torch.Tensor, stride: int) -> torch.Tensor:
    """(U, C, S, S) of maps (N, C, H, W) at boxes (U, 4) in pixels; point i of a map is the pixel stride * (i + 1/2)."""
    rois = torch.cat([indices[:, None].to(boxes), boxes], dim=1)
    return ROIAlign((_BOX_SIDE, _BOX_SIDE), spatial_scale=1 / stride, sampling_ratio=0, aligned=True)(maps, rois)


def _paste(crops: torch.Tensor, boxes: torch.Tensor, size: tuple[int, int], stride: int) -> torch.Tensor:
    """(U, *size) from (U, S, S): the opposite of `_crop`, bilinear, 0 outside of the boxes."""
    axes = []
    for axis, extent in ((0, size[1]), (1, size[0])):
        pixels = stride * (torch.arange(extent, device=boxes.device) + 0.5)
        start, end = boxes[:, axis, None], boxes[:, axis + 2, None]
        axes.append(2 * (pixels - start) / (end - start).clamp(min=1e-6) - 1)
    x, y = axes
    grid = torch.stack([x[:, None, :].expand(-1, *size), y[:, :, None].expand(-1, *size)], dim=-1)
    return F.grid_sample(crops[:, None], grid.to(crops), align_corners=False)[:, 0]
