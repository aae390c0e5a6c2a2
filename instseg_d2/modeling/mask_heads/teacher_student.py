"""Teacher-Student mask heads: a class-agnostic head teaches a class-specific one the masks that are hidden.

Zhao et al., "Rethinking mask heads for partially supervised instance segmentation", Neurocomputing 2022.
"""

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.layers import ConvTranspose2d
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage
from torch.nn import functional as F

from instseg_d2.data.errors import DatasetError
from instseg_d2.layers.mask_losses import mask_bce, pick_channel

from ..pseudo_masks import PseudoMasks
from .base import Logits, MaskHead, attach, by_name
from .mask_rcnn import MaskRCNNHead
from .targets import crop_targets, supervised

_TEACHER = "teacher_"


def inside_boxes(regions: torch.Tensor, boxes: torch.Tensor, size: int) -> torch.Tensor:
    """Say for each cell of the regions' grids whether its middle lies in a box.

    Args:
        regions: (R, 4) xyxy pixels, which the grids divide.
        boxes: (R, 4) xyxy pixels.
        size: cells a side.

    Returns:
        (R, size, size) bool.
    """
    steps = (torch.arange(size, device=regions.device) + 0.5) / size
    inside = []
    for axis in (0, 1):
        middles = regions[:, axis, None] + steps * (regions[:, axis + 2] - regions[:, axis])[:, None]
        inside.append((middles >= boxes[:, axis, None]) & (middles <= boxes[:, axis + 2, None]))
    return inside[1][:, :, None] & inside[0][:, None, :]


class PseudoMaskHead(MaskHead):
    """A head that learns masks which are hidden from masks that are predicted.

    Args:
        pseudo_masks: what becomes of predictions.
        pseudo_start: training iteration, as the trainer counts them, from which hidden masks are learned; before it
            the seen ones alone.
    """

    def __init__(self, *, pseudo_masks: PseudoMasks, pseudo_start: int = 0):
        super().__init__()
        self.pseudo_masks = pseudo_masks
        self.pseudo_start = pseudo_start

    def region_targets(
        self, teacher: torch.Tensor, student: torch.Tensor, instances: list[Instances]
    ) -> tuple[torch.Tensor, list[Instances], torch.Tensor | None]:
        """Find what there is to learn: the true masks that may be seen, and pseudo masks in the place of the others.

        Args:
            teacher: (R, 1, M', M') logits, M' a multiple of M.
            student: (R, M, M) logits of the true class.
            instances: per image, R regions with `proposal_boxes` and ground truth, of which hidden ones need `gt_seen`
                and `gt_image` as far as the pseudo masks do.

        Returns:
            rows that are learned, (R,) bool; these K regions, per image that has any; their targets (K, M, M) float32,
            None for K = 0.

        Raises:
            DatasetError: the loader gives too little.
        """
        seen, visible = supervised(instances)
        size = student.shape[-1]
        if get_event_storage().iter < self.pseudo_start:
            return seen, visible, crop_targets(visible, size) if visible else None
        present = [x for x in instances if len(x) > 0]
        if not present:
            return seen, [], None
        targets = torch.zeros(student.shape, device=student.device)
        if visible:
            targets[seen] = crop_targets(visible, size)
        hidden = [x[~x.gt_has_mask] for x in present if x.has("gt_has_mask")]
        hidden = [x for x in hidden if len(x) > 0]
        if hidden:
            targets[~seen] = self.hidden_targets(teacher[~seen][:, 0], student[~seen], hidden)
        return torch.ones_like(seen), present, targets

    @torch.no_grad()
    def hidden_targets(self, teacher: torch.Tensor, student: torch.Tensor, instances: list[Instances]) -> torch.Tensor:
        """Pseudo masks (U, M, M) of regions whose masks are hidden; see `region_targets`."""
        size, rule = student.shape[-1], self.pseudo_masks
        probabilities = teacher.float().sigmoid()
        if probabilities.shape[-1] != size:
            probabilities = F.avg_pool2d(probabilities, probabilities.shape[-1] // size)
        colors = _crops(instances, "gt_image", size) if rule.needs_colors else None
        targets = rule(probabilities, student.float().sigmoid(), colors)
        if rule.without_seen:
            targets = targets * (_crops(instances, "gt_seen", size)[:, 0] < 0.5)
        if rule.inside_box:
            regions, boxes = (
                torch.cat([x.get(name).tensor for x in instances]) for name in ("proposal_boxes", "gt_boxes")
            )
            targets = targets * inside_boxes(regions, boxes, size)
        return targets


def _crops(instances: list[Instances], field: str, size: int) -> torch.Tensor:
    if not all(x.has(field) for x in instances):
        raise DatasetError(
            f"pseudo masks look at '{field}', which the ground truth does not have: add it to the mapper's "
            f"extra_fields (dataloader.train.mapper.extra_fields=[gt_seen,{field}])"
        )
    return torch.cat([x.get(field).crop_and_resize(x.proposal_boxes.tensor, size) for x in instances])


class TeacherStudentHead(PseudoMaskHead):
    """Any class-agnostic head as the teacher, and a class-specific head beside it as its student.

    Both read the same features. The teacher learns from the masks that may be seen, as it does alone, under its own
    loss names; the student from these and, for the other regions, from what `pseudo_masks` makes of the teacher's
    masks, with one mean over all regions: `loss_student`. In inference there is the student alone;
    `checkpoint.teacher_student` leaves the teacher out of a file.

    The student learns the channel of the true class. With `all_channels` the others learn to be empty (eq. 3 read
    literally), the mean being over all of them.

    Args:
        teacher: with one channel of masks, and a grid as fine as the student's or finer by a whole factor.
        student: with a channel a class, and no loss but that of its masks: others may ask for true masks.
        pseudo_masks: see `PseudoMaskHead`.
        pseudo_start: see `PseudoMaskHead`.
        all_channels: see above.
        keep_aux: in inference also give `pred_teacher_masks`, probabilities (R, 1, M', M'), and `pred_pseudo_masks`
            (R, 1, M, M), what becomes of them before the rules that need ground truth (not for the method "crf").

    Raises:
        ValueError: the student has other losses.
    """

    def __init__(
        self,
        *,
        teacher: MaskHead,
        student: MaskHead,
        pseudo_masks: PseudoMasks,
        pseudo_start: int = 0,
        all_channels: bool = False,
        keep_aux: bool = False,
    ):
        super().__init__(pseudo_masks=pseudo_masks, pseudo_start=pseudo_start)
        _check_losses("the student", student)
        self.teacher = teacher
        self.student = student
        self.all_channels = all_channels
        self.keep_aux = keep_aux

    def layers(
        self, x: torch.Tensor | dict[str, torch.Tensor], instances: list[Instances]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """See `MaskHead.layers`: the student's; in training or with `keep_aux` also the teacher's `teacher_<name>`."""
        features, logits = self.student.layers(x, instances)
        logits = {"masks": by_name(logits)["masks"]}
        if self.training or self.keep_aux:
            _, taught = self.teacher.layers(x, instances)
            logits |= {_TEACHER + name: values for name, values in by_name(taught).items()}
        return features, logits

    @property
    def loss_names(self) -> list[str]:
        return [*self.teacher.loss_names, "loss_student"]

    def losses(self, logits: dict[str, torch.Tensor], instances: list[Instances]) -> dict[str, torch.Tensor]:
        """Compute the teacher's losses, and `loss_student` of all regions; without any, zeros that keep the graph."""
        teacher = {name.removeprefix(_TEACHER): x for name, x in logits.items() if name.startswith(_TEACHER)}
        losses = self.teacher.losses(teacher, instances)
        with get_event_storage().name_scope("student"):
            loss = self._student_loss(teacher["masks"].detach(), logits["masks"], instances)
        return {**losses, "loss_student": loss}

    def _student_loss(self, teacher: torch.Tensor, masks: torch.Tensor, instances: list[Instances]) -> torch.Tensor:
        classes = torch.cat([x.gt_classes for x in instances])
        own = pick_channel(masks, classes)
        rows, regions, targets = self.region_targets(teacher, own.detach(), instances)
        if not regions:
            return masks[rows].float().sum()
        losses = self.student.map_losses({"masks": own[rows]}, targets, regions)
        if not self.all_channels:
            return losses["loss_mask"]
        masks = masks[rows]
        wanted = torch.zeros(masks.shape, device=masks.device)
        wanted[torch.arange(len(masks), device=masks.device), classes[rows]] = targets
        return self.student.loss_weight * mask_bce(masks, wanted)

    def inference(self, logits: dict[str, torch.Tensor], instances: list[Instances]) -> list[Instances]:
        """Attach the student's `pred_masks`; see `keep_aux` for others."""
        instances = self.student.inference(logits["masks"], instances)
        if self.keep_aux:
            teacher = logits[f"{_TEACHER}masks"].float().sigmoid()
            attach(instances, "pred_teacher_masks", teacher)
            if not self.pseudo_masks.needs_colors:
                masks = torch.cat([x.pred_masks for x in instances])[:, 0]
                coarse = F.avg_pool2d(teacher[:, 0], teacher.shape[-1] // masks.shape[-1])
                attach(instances, "pred_pseudo_masks", self.pseudo_masks(coarse, masks)[:, None])
        return instances


def _check_losses(who: str, head: MaskHead) -> None:
    if head.loss_names != ["loss_mask"]:
        raise ValueError(
            f"{who} has the losses {', '.join(head.loss_names)}; pseudo masks are for loss_mask alone, so switch the "
            "others off or take MaskRCNNHead"
        )


class SelfTaughtHead(PseudoMaskHead):
    """A head that learns hidden masks from its own predictions: the class-agnostic control of the paper's Fig. 3.

    Args:
        head: with one channel of masks, and no loss but that of its masks.
        pseudo_masks: see `PseudoMaskHead`; teacher and student are the same, so "interaction" is "threshold".
        pseudo_start: see `PseudoMaskHead`.

    Raises:
        ValueError: the head has other losses.
    """

    def __init__(self, *, head: MaskHead, pseudo_masks: PseudoMasks, pseudo_start: int = 0):
        super().__init__(pseudo_masks=pseudo_masks, pseudo_start=pseudo_start)
        _check_losses("the head", head)
        self.head = head

    def layers(self, x: torch.Tensor | dict[str, torch.Tensor], instances: list[Instances]):
        return self.head.layers(x, instances)

    def losses(self, logits: Logits, instances: list[Instances]) -> dict[str, torch.Tensor]:
        """Compute `loss_mask` of all regions; without any, a zero that keeps the graph."""
        masks = by_name(logits)["masks"]
        rows, regions, targets = self.region_targets(masks.detach(), masks[:, 0].detach(), instances)
        if not regions:
            return {"loss_mask": masks[rows].float().sum()}
        return self.head.map_losses({"masks": masks[rows, 0]}, targets, regions)

    def inference(self, logits: Logits, instances: list[Instances]) -> list[Instances]:
        return self.head.inference(logits, instances)


class FineMaskRCNNHead(MaskRCNNHead):
    """Mask R-CNN's head with a second transposed convolution: masks of four times the side of the features (Table 3).

    Args:
        kwargs: of `MaskRCNNHead`.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        width = self.deconv.out_channels
        self.deconv2 = ConvTranspose2d(width, width, kernel_size=2, stride=2)
        weight_init.c2_msra_fill(self.deconv2)

    def layers(self, x: torch.Tensor, instances: list[Instances]) -> tuple[torch.Tensor, torch.Tensor]:
        """See `MaskHead.layers`: from (R, C, H, W) features to features and logits of side 4H."""
        for convolution in self.convolutions():
            x = convolution(x)
        x = F.relu(self.deconv2(F.relu(self.deconv(x))))
        return x, self.predictor(x)
