"""All three stages trained together, each on what the one before it makes."""

from typing import Any

import torch
from torch import nn

from ..propagation import Propagator
from .content import Critics, Painter
from .flow import FlowStage
from .shape import ShapeStage
from .stage import AdversarialStage, Clips, Evidence, Losses, require


class JointPainter(nn.Module):
    """Shape, flow and content in a row; the losses of all three, added up.

    Trained apart, each stage has seen true masks and flows alone. Masks are decided and pixels propagated, and neither
    lets gradients through: what is joint is that each stage learns from the mistakes of those before it.

    Args:
        shape: completes the masks.
        flow: completes the flow inside them; its network must start from the observed flow, since a loader cannot
            complete it before the masks are known.
        content: paints what propagation leaves.
        propagator: along the completed flow.

    Raises:
        ValueError: the flow's network starts from the harmonic flow.
    """

    def __init__(self, *, shape: ShapeStage, flow: FlowStage, content: Painter, propagator: Propagator):
        super().__init__()
        if flow.network.start != "corrupted":
            raise ValueError(f"flow.network.start='{flow.network.start}': joint training needs 'corrupted'")
        self.shape = shape
        self.flow = flow
        self.content = content
        self.propagator = propagator

    def forward(self, clips: Clips) -> tuple[Losses, Evidence]:
        """Losses of a batch, and what the discriminators are to judge."""
        logits = self.shape.logits(clips)
        losses = self.shape.losses_of(logits, clips)
        found = {**clips, "complete": self._decided(logits, clips)}
        flows = self.flow.flows(found)
        losses |= self.flow.losses_of(flows, found)
        painted, evidence = self.content(self._propagated(found, flows))
        return losses | painted, evidence

    def predict(self, clips: Clips) -> dict[str, Any]:
        """Complete masks, flows and frames of a batch."""
        found = clips | self.shape.predict(clips)
        flows = self.flow.flows(found)
        moved = self._propagated(found, flows)
        filled = moved["propagated_frames"], moved["propagated_visible"], moved["complete"]
        return {"complete": found["complete"], "flows": flows, "frames": self.content.network.fill(*filled)}

    def _decided(self, logits: torch.Tensor, clips: Clips) -> torch.Tensor:
        visible = require(clips, "visible")[0]
        return self.shape.network.decide(logits.detach().sigmoid(), visible, self.shape.occluders(clips))

    def _propagated(self, clips: Clips, flows: tuple[torch.Tensor, torch.Tensor]) -> Clips:
        parts = require(clips, "frames", "visible", "complete")
        moved = self.propagator(*parts, *(flow.detach() for flow in flows))
        return {**clips, "propagated_frames": moved.frames, "propagated_visible": moved.visible}


class JointStage(AdversarialStage):
    """All three stages (`painter`, a `JointPainter`) and both discriminators (`critics`); predicts all that they do.

    It starts from the weights of the stages, see `instseg_d2.engine.inpainting_stages.join_checkpoints`.

    Args:
        painter: a `JointPainter`.
        critics: a `Critics`.
    """

    painter: JointPainter
    critics: Critics

    def predict(self, clips: Clips) -> dict[str, Any]:
        return self.painter.predict(clips)

    @property
    def networks(self) -> dict[str, nn.Module]:
        return self.painter.shape.networks | self.painter.flow.networks | {"content": self.painter.content.network}
