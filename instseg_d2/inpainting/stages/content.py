"""Training of content completion (Sec. 5.4.3): the generator against both discriminators."""

import torch
from torch import nn

from ..adversarial import ClassAdversarialLoss, PatchAdversarialLoss
from ..discriminators import ClassDiscriminator, TPatchDiscriminator
from ..generator.losses import ReconstructionLoss
from ..generator.model import OcclusionAwareGenerator, compose
from ..generator.perceptual import PerceptualLoss
from .stage import AdversarialStage, Clips, Evidence, Losses, require


class Painter(nn.Module):
    """The generator with the losses that need no discriminator.

    It shall complete the object and leave all else as observed, an occluder beside the object too. So the truth is the
    observed frame with the clean object in it, and what discriminators are shown differs in the hole alone.

    Args:
        network: the generator.
        reconstruction: its loss.
        perceptual: None, or a further one.
    """

    def __init__(
        self,
        *,
        network: OcclusionAwareGenerator,
        reconstruction: ReconstructionLoss,
        perceptual: PerceptualLoss | None = None,
    ):
        super().__init__()
        self.network = network
        self.reconstruction = reconstruction
        self.perceptual = perceptual

    def forward(self, clips: Clips) -> tuple[Losses, Evidence]:
        """Losses of a batch, and what the discriminators are to judge."""
        frames, clean, complete, classes = require(clips, "frames", "clean", "complete", "class_index")
        filled, visible = with_propagated(clips)
        hole = complete * (1 - visible)
        truth = compose(frames, clean, complete)
        painted = self.network(filled, visible, complete)
        composed = compose(truth, painted, hole)
        losses = self.reconstruction(painted, truth, hole, complete)
        if self.perceptual is not None:
            losses |= self.perceptual(composed, truth)
        return losses, Evidence(truth, composed, complete, classes)


def with_propagated(clips: Clips) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames and visible masks after propagation, if `ClipMapper` has propagated, else as observed."""
    if "propagated_frames" in clips:
        return tuple(require(clips, "propagated_frames", "propagated_visible"))
    return tuple(require(clips, "frames", "visible"))


class Critics(nn.Module):
    """Both discriminators with their losses; either may be left out.

    Args:
        patch: real or painted, patch by patch.
        by_class: the object's class, or painted.
        patch_loss: of the first.
        class_loss: of the second.
    """

    def __init__(
        self,
        *,
        patch: TPatchDiscriminator | None,
        by_class: ClassDiscriminator | None,
        patch_loss: PatchAdversarialLoss,
        class_loss: ClassAdversarialLoss,
    ):
        super().__init__()
        self.patch = patch
        self.by_class = by_class
        self.patch_loss = patch_loss
        self.class_loss = class_loss

    def forward(self, evidence: Evidence) -> Losses:
        """Losses of the discriminators; the evidence has no graph."""
        losses = {}
        if self.patch is not None:
            losses |= self.patch_loss.discriminator(self.patch(evidence.real), self.patch(evidence.fake))
        if self.by_class is not None:
            logits = (self.by_class(clips, evidence.complete) for clips in (evidence.real, evidence.fake))
            losses |= self.class_loss.discriminator(*logits, evidence.classes)
        return losses

    def judge(self, evidence: Evidence) -> Losses:
        """Losses of the painter against the discriminators."""
        losses = {}
        if self.patch is not None:
            losses |= self.patch_loss.generator(self.patch(evidence.fake))
        if self.by_class is not None:
            losses |= self.class_loss.generator(self.by_class(evidence.fake, evidence.complete), evidence.classes)
        return losses


class ContentStage(AdversarialStage):
    """The generator (`painter`) against both discriminators (`critics`); predicts `frames`.

    Without propagated frames in the clips it is trained, and paints, without flow (Table 5.8).

    Args:
        painter: a `Painter`.
        critics: a `Critics`.
    """

    painter: Painter
    critics: Critics

    def predict(self, clips: Clips) -> dict[str, torch.Tensor]:
        frames, visible = with_propagated(clips)
        return {"frames": self.painter.network.fill(frames, visible, *require(clips, "complete"))}

    @property
    def networks(self) -> dict[str, nn.Module]:
        return {"content": self.painter.network}
