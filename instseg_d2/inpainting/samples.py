"""What goes into the completion of an object in a video, frame by frame, and what comes out."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Sample:
    """One frame of a video, and what is known of its object.

    Attributes:
        frame: (3, H, W) float RGB in [-1, 1].
        visible: (1, H, W) float in {0, 1}, empty where the object is not seen.
        complete: (1, H, W) float in {0, 1}, or None to have it found.
        occluders: (1, H, W) float in {0, 1}, where the object may be hidden; needed where `complete` is None.
    """

    frame: torch.Tensor
    visible: torch.Tensor
    complete: torch.Tensor | None = None
    occluders: torch.Tensor | None = None


@dataclass(frozen=True)
class Completion:
    """A completed clip, or, without the axes B and T, one frame of it.

    Attributes:
        frames: (B, T, 3, H, W); equal to the input, bit by bit, outside of the hole.
        visible: (B, T, 1, H, W) float, as given.
        complete: (B, T, 1, H, W) float, the complete masks, which contain the visible ones.
        from_past: (B, T, 1, H, W) float, pixels with colours of an earlier frame.
        from_future: (B, T, 1, H, W) float, pixels with colours of a later frame.
        painted: (B, T, 1, H, W) float, pixels that no frame shows; their colours are made up.
        left: (B, T, 1, H, W) float, pixels that are as before: nothing of the object is known in that frame.
    """

    frames: torch.Tensor
    visible: torch.Tensor
    complete: torch.Tensor
    from_past: torch.Tensor
    from_future: torch.Tensor
    painted: torch.Tensor
    left: torch.Tensor

    def frame(self, time: int) -> "Completion":
        """One frame of the first clip, without the axes B and T; a copy, which does not keep the clip alive."""
        return Completion(**{name: part[0, time].clone() for name, part in vars(self).items()})
