"""Training of shape completion (Sec. 5.4.1): erased objects, and the truth that the eraser hides."""

import torch
from torch import nn

from ..shape.losses import ShapeLoss
from ..shape.model import ShapeCompletion
from .stage import Clips, Losses, Stage, require


class ShapeStage(Stage):
    """`ShapeCompletion` with its losses; predicts `complete`.

    Args:
        network: the network.
        loss: its loss.
        known_occluders: the network is given the mask of the eraser, and masks grow inside it alone.
    """

    def __init__(self, *, network: ShapeCompletion, loss: ShapeLoss, known_occluders: bool = False):
        super().__init__()
        self.network = network
        self.loss = loss
        self.known_occluders = known_occluders

    def losses(self, clips: Clips) -> Losses:
        return self.losses_of(self.logits(clips), clips)

    def logits(self, clips: Clips) -> torch.Tensor:
        """(B, T, 1, H, W) logits of the complete masks of a batch."""
        frames, visible, classes = require(clips, "frames", "visible", "class_index")
        return self.network(frames, visible, classes, self.occluders(clips))

    def losses_of(self, logits: torch.Tensor, clips: Clips) -> Losses:
        """Losses of a batch's logits."""
        return self.loss(logits, *require(clips, "visible", "complete", "eraser"))

    def predict(self, clips: Clips) -> dict[str, torch.Tensor]:
        frames, visible, classes = require(clips, "frames", "visible", "class_index")
        return {"complete": self.network.complete(frames, visible, classes, self.occluders(clips))}

    def occluders(self, clips: Clips) -> torch.Tensor | None:
        """The eraser's masks (B, T, 1, H, W), if they are known."""
        return require(clips, "eraser")[0] if self.known_occluders else None

    @property
    def networks(self) -> dict[str, nn.Module]:
        return {"shape": self.network}
