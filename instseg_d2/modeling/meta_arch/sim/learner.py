"""What SIM is on any model that draws masks: a teacher, pseudo masks, and images with objects pasted by them."""

from collections.abc import Callable, Mapping, Sequence

import torch
from detectron2.structures import Instances
from torch import nn

from instseg_d2.layers.ranks import mean_over_ranks

from .copy_paste import CopyPaste
from .instance_bank import confident_objects
from .labeler import PseudoLabeler
from .teacher import MomentumTeacher

MaskLoss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class PseudoMaskLearner(nn.Module):
    """Stands before a model among the bases of a class: `class SIM(PseudoMaskLearner, CondInst)`.

    The class defines `students` and `enlarge`, and what it teaches in a training step, which begins with `begin_step`.

    Args:
        labeler: makes the pseudo masks; its prototypes are on the features that masks are made from.
        pseudo_loss: of the pseudo masks; called with logits, targets and valid pixels, see `BCEDiceLoss`.
        pseudo_weight: factor on `loss_pseudo`.
        warmup_iters: training steps before pseudo masks are taught and objects pasted.
        teacher_momentum: see `MomentumTeacher`.
        copy_paste: makes images with pasted objects; None for none.
        paste_loss: of the masks of pasted objects, as `pseudo_loss`; needed with `copy_paste`.
        paste_weight: factor on `loss_paste`.
        paste_threshold: probability from which pixels of the instance map are cut out for pasting.
        test_with_teacher: predict with the teacher's weights.
        kwargs: for the model.

    Attributes:
        iterations: int64 buffer, training steps so far; in checkpoints, as are the teacher and the prototypes.

    Raises:
        ValueError: `copy_paste` without `paste_loss`.
    """

    def __init__(
        self,
        *,
        labeler: PseudoLabeler,
        pseudo_loss: MaskLoss,
        pseudo_weight: float,
        warmup_iters: int = 10000,
        teacher_momentum: float = 0.9999,
        copy_paste: CopyPaste | None = None,
        paste_loss: MaskLoss | None = None,
        paste_weight: float,
        paste_threshold: float = 0.7,
        test_with_teacher: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if copy_paste is not None and paste_loss is None:
            raise ValueError("copy_paste needs a paste_loss, the loss of the masks of pasted objects")
        self.labeler = labeler
        self.pseudo_loss = pseudo_loss
        self.pseudo_weight = pseudo_weight
        self.warmup_iters = warmup_iters
        self.copy_paste = copy_paste
        self.paste_loss = paste_loss
        self.paste_weight = paste_weight
        self.paste_threshold = paste_threshold
        self.test_with_teacher = test_with_teacher
        self.register_buffer("iterations", torch.zeros((), dtype=torch.int64))
        self.teacher = MomentumTeacher(students=self.students(), momentum=teacher_momentum)

    def students(self) -> dict[str, nn.Module]:
        """The parts of the model that the teacher has copies of, by name."""
        raise NotImplementedError

    def enlarge(self, maps: torch.Tensor, stride: int) -> torch.Tensor:
        """Maps (M, 1, H, W) of the grid of the masks in pixels of the padded batch, (M, 1, stride H, stride W)."""
        raise NotImplementedError

    def begin_step(self) -> None:
        """Count a training step and let the teacher follow the student."""
        self.iterations += 1
        self.teacher.follow()

    @property
    def is_warm(self) -> bool:
        """Whether pseudo masks are taught and objects pasted."""
        return int(self.iterations) > self.warmup_iters

    @torch.no_grad()
    def objects_to_paste(self, truth: Sequence[Instances], instance_maps: torch.Tensor, stride: int) -> list[Instances]:
        """Per image the objects with a mask to cut them out by; image by image, as their maps are large.

        Args:
            truth: per image, M objects in all.
            instance_maps: (M, H, W).
            stride: of the maps.
        """
        found = []
        for x, maps in zip(truth, instance_maps.split([len(x) for x in truth]), strict=True):
            height, width = x.image_size
            whole = self.enlarge(maps[:, None], stride)[:, 0, :height, :width]
            found.append(confident_objects(x, whole, threshold=self.paste_threshold))
        return found

    def pasted_copy(self, batched_inputs: Sequence[dict], objects: Sequence[Instances]) -> list[dict] | None:
        """The inputs with objects pasted into them; None if no process has pasted anything.

        Args:
            batched_inputs: of the step.
            objects: per image, from `objects_to_paste`.
        """
        images, truth = self.copy_paste(*images_and_truth(batched_inputs), objects)
        pasted = torch.cat([x.gt_pasted for x in truth]).any()
        # One process with a paste takes all others along: a synchronized norm would wait for them.
        if not mean_over_ranks(pasted.to(self.device, torch.float32)):
            return None
        return replaced(batched_inputs, images, truth)

    def inference(
        self,
        batched_inputs: list[dict],
        detected_instances: list[Instances] | None = None,
        do_postprocess: bool = True,
    ) -> list[dict[str, Instances]] | list[Instances]:
        """Detect and segment, or segment given boxes, as the model itself does.

        Raises:
            CheckpointError: `test_with_teacher`, and there is no teacher.
        """
        if not self.test_with_teacher:
            return super().inference(batched_inputs, detected_instances, do_postprocess)
        with self.teacher.in_place_of_students():
            return super().inference(batched_inputs, detected_instances, do_postprocess)


def nothing(logits: torch.Tensor) -> torch.Tensor:
    """A zero that keeps the graph, whatever the logits are."""
    return logits[:0].sum()


def images_and_truth(batched_inputs: Sequence[Mapping]) -> tuple[list[torch.Tensor], list[Instances]]:
    """`image` and `instances` of each input."""
    return [item["image"] for item in batched_inputs], [item["instances"] for item in batched_inputs]


def replaced(batched_inputs: Sequence[dict], images: Sequence[torch.Tensor], truth: Sequence[Instances]) -> list[dict]:
    """The inputs with other images and ground truth."""
    return [
        {**item, "image": image, "instances": x} for item, image, x in zip(batched_inputs, images, truth, strict=True)
    ]
