"""Training of flow completion (Sec. 5.4.2): flow as observed, and that of the clean frames."""

from typing import Any

import torch
from torch import nn

from ..errors import InpaintingError
from ..flow.completion import FlowCompletion
from ..flow.losses import FlowLoss
from .stage import Clips, Losses, Stage, require


class FlowStage(Stage):
    """`FlowCompletion` with its losses; predicts `flows`.

    A network that starts from the harmonic flow takes it from the clips, where `ClipMapper(harmonic=True)` has put it,
    beside the training.

    Args:
        network: the network.
        loss: its loss.
    """

    def __init__(self, *, network: FlowCompletion, loss: FlowLoss):
        super().__init__()
        self.network = network
        self.loss = loss

    def losses(self, clips: Clips) -> Losses:
        return self.losses_of(self.flows(clips), clips)

    def flows(self, clips: Clips) -> tuple[torch.Tensor, torch.Tensor]:
        """Completed forward and backward flow of a batch, (B, T - 1, 2, H, W) pixels each."""
        frames, visible, complete = require(clips, "frames", "visible", "complete")
        if frames.shape[1] < 2:
            raise InpaintingError("clips of one frame have no flow; set dataloader.*.dataset.clips.length to 2 or more")
        kind = "harmonic" if self.network.start == "harmonic" else "observed"
        observed = require(clips, f"{kind}_forward_flow", f"{kind}_backward_flow")
        return self.network(frames, visible, complete, *observed, started=True)

    def losses_of(self, flows: tuple[torch.Tensor, torch.Tensor], clips: Clips) -> Losses:
        """Losses of a batch's completed flows."""
        true_flows = tuple(require(clips, "forward_flow", "backward_flow"))
        return self.loss(flows, true_flows, *require(clips, "clean", "visible", "complete"))

    def predict(self, clips: Clips) -> dict[str, Any]:
        return {"flows": self.flows(clips)}

    @property
    def networks(self) -> dict[str, nn.Module]:
        return {"flow": self.network}
