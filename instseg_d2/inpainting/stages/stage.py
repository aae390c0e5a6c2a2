"""What all stages share: from a list of clips to losses or predictions."""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import nn

from ..errors import InpaintingError

Item = dict[str, Any]
Clips = dict[str, torch.Tensor]
Losses = dict[str, torch.Tensor]


def stack_items(items: list[Item], device: torch.device | str) -> Clips:
    """The tensors of several clips by name, with the axis B first, on a device.

    Raises:
        InpaintingError: clips of different length or size.
    """
    names = [name for name, part in items[0].items() if isinstance(part, torch.Tensor)]
    try:
        return {name: torch.stack([item[name] for item in items]).to(device) for name in names}
    except (RuntimeError, KeyError) as error:
        raise InpaintingError(f"clips of one batch must have the same parts and sizes: {error}") from error


def require(clips: Clips, *names: str) -> list[torch.Tensor]:
    """Parts of a batch by name.

    Raises:
        InpaintingError: one is missing; the message says who gives it.
    """
    missing = [name for name in names if name not in clips]
    if missing:
        raise InpaintingError(
            f"the clips have no {', '.join(missing)} (they have {', '.join(clips)}); flows and propagated frames come "
            "from dataloader.*.mapper, true flows from dataloader.*.dataset.clips.flow=True"
        )
    return [clips[name] for name in names]


class Stage(nn.Module, ABC):
    """A network that is trained on clips; `forward` takes a list of items of `InpaintingClips`, mapped by `ClipMapper`.

    In training mode it gives losses, the same names each time, else one dict a clip with what is predicted:
    `complete` (T, 1, H, W), `flows`, a pair of (T - 1, 2, H, W), `frames` (T, 3, H, W), on the network's device.
    """

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def forward(self, items: list[Item]) -> Losses | list[Item]:
        """Losses in training mode, else predictions; see above.

        Raises:
            InpaintingError: a clip lacks a part, or parts do not fit each other.
        """
        clips = stack_items(items, self.device)
        if self.training:
            return self.losses(clips)
        with torch.no_grad():
            return _by_clip(self.predict(clips), len(items))

    @abstractmethod
    def losses(self, clips: Clips) -> Losses:
        """Losses of a batch."""

    @abstractmethod
    def predict(self, clips: Clips) -> dict[str, Any]:
        """Predictions of a batch: tensors with B first, or pairs of them."""

    @property
    @abstractmethod
    def networks(self) -> dict[str, nn.Module]:
        """The bare networks by what they complete: `shape`, `flow`, `content`."""


def _by_clip(predicted: dict[str, Any], count: int) -> list[Item]:
    def take(part: Any, index: int) -> Any:
        return part[index] if isinstance(part, torch.Tensor) else tuple(one[index] for one in part)

    return [{name: take(part, index) for name, part in predicted.items()} for index in range(count)]


class Evidence(NamedTuple):
    """What discriminators are shown.

    Attributes:
        real: (B, T, 3, H, W) in [-1, 1].
        fake: same shape, with a graph to the generator.
        complete: (B, T, 1, H, W) float in {0, 1}.
        classes: (B,) int64, -1 for unknown.
    """

    real: torch.Tensor
    fake: torch.Tensor
    complete: torch.Tensor
    classes: torch.Tensor

    def detached(self) -> "Evidence":
        """The same without a graph."""
        return Evidence(*(part.detach() for part in self))


class AdversarialStage(Stage):
    """A stage of two sides that are trained against each other, which needs a trainer that knows both.

    Args:
        painter: called with clips, gives losses and `Evidence`.
        critics: called with evidence, gives the losses of the discriminators; `judge` gives those of the painter.
    """

    def __init__(self, *, painter: nn.Module, critics: nn.Module):
        super().__init__()
        self.painter = painter
        self.critics = critics

    def losses(self, clips: Clips) -> Losses:
        """Losses of the painter's side; those of the discriminators come from `critics`."""
        losses, evidence = self.painter(clips)
        return losses | self.critics.judge(evidence)
