"""What a trained SIM learns the masks of an image from, for pictures."""

import dataclasses
from collections.abc import Sequence

import torch
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage
from torch import nn

from instseg_d2.layers.upsample import aligned_bilinear
from instseg_d2.modeling.meta_arch.sim.copy_paste import CopyPaste
from instseg_d2.modeling.meta_arch.sim.instance_bank import InstanceBank, confident_objects
from instseg_d2.modeling.meta_arch.sim.model import SIM
from instseg_d2.modeling.meta_arch.sim.pseudo_masks import positive_weights

from .overrides import SettingError


@dataclasses.dataclass(frozen=True, kw_only=True)
class PseudoSupervision:
    """Maps of one image, M objects and K positives, on the CPU; the arguments of `draw_pseudo_supervision`.

    Attributes:
        stride: of the grid of (h, w) points.
        color_edges: (P, h, w) bool.
        semantic: (M, h, w).
        instance: (M, h, w).
        targets: (M, h, w) bool.
        valid: (M, h, w) bool.
        locations: (K, 2) xy pixels.
        gt_inds: (K,) int64.
        weights: (K,).
    """

    stride: int
    color_edges: torch.Tensor
    semantic: torch.Tensor
    instance: torch.Tensor
    targets: torch.Tensor
    valid: torch.Tensor
    locations: torch.Tensor
    gt_inds: torch.Tensor
    weights: torch.Tensor


class PseudoSupervisionProbe:
    """Looks at what a SIM would learn from, without training it.

    Args:
        model: with its weights loaded; it is put into training mode. A model whose weights come without a teacher is
            its own teacher.

    Raises:
        SettingError: the model is no SIM.
    """

    def __init__(self, model: nn.Module):
        if not isinstance(model, SIM):
            raise SettingError(f"{type(model).__name__} makes no pseudo masks; name a recipe of SIM (SIM/sim_*)")
        self.model = model.train()
        if not model.teacher.started:
            model.teacher.follow()

    @torch.no_grad()
    def __call__(self, sample: dict) -> PseudoSupervision:
        """The maps of one image.

        Args:
            sample: of the training mapper, with `image` and `instances`.
        """
        model = self.model
        with EventStorage():
            _, step = model.training_pass([sample])
        step = model.teach(step)
        (truth,), (positives,) = step.truth, step.positives
        regions = model.supervision.object_maps(truth, step.logits.shape[1:], step.stride)
        pseudo = model.labeler(step.teacher_features, step.instance_maps, regions, [truth.gt_classes])
        maps = PseudoSupervision(
            stride=step.stride,
            color_edges=model.supervision.color_similarity(step)[0] >= model.supervision.colors.threshold,
            semantic=model.labeler.prototypes.semantic_maps(step.teacher_features[0], truth.gt_classes),
            instance=step.instance_maps,
            targets=pseudo.targets,
            valid=pseudo.valid,
            locations=positives.locations,
            gt_inds=step.gt_inds,
            weights=positive_weights(step.ious, step.gt_inds, len(truth), mu=model.labeler.mu),
        )
        return dataclasses.replace(
            maps, **{name: value.cpu() for name, value in vars(maps).items() if isinstance(value, torch.Tensor)}
        )

    def paste(
        self, samples: Sequence[dict], found: Sequence[PseudoSupervision]
    ) -> list[tuple[torch.Tensor, Instances]]:
        """Paste objects of each image into the next one, and of the last into the first, as the model would.

        Args:
            samples: of the training mapper.
            found: their maps.

        Returns:
            per image the image and the ground truth with pasted objects, see `CopyPaste.paste`; as it was where the
            image before has no object that can be cut out. None at all without `copy_paste` in the model.
        """
        own = self.model.copy_paste
        if own is None or not samples:
            return []
        results = []
        for sample, source, maps in zip(samples, [samples[-1], *samples], [found[-1], *found], strict=False):
            pasting = CopyPaste(
                bank=InstanceBank(capacity=1),
                probability=1.0,
                share=own.share,
                number=own.number,
                score_power=own.score_power,
                least_visible=own.least_visible,
            )
            height, width = source["image"].shape[-2:]
            whole = aligned_bilinear(maps.instance[:, None], maps.stride)[:, 0, :height, :width]
            objects = confident_objects(source["instances"], whole, threshold=self.model.paste_threshold)
            pasting.remember([source["image"]], [objects])
            (image,), (truth,) = pasting.paste([sample["image"]], [sample["instances"]])
            results.append((image, truth))
        return results
