"""What a clip is: tensors with time second, and the checks and conversions that all parts share.

Frames are (B, T, 3, H, W) float RGB in [-1, 1]. Masks are (B, T, 1, H, W) float, 1 = object or hole. Of an object,
`visible` is what is seen of it, `complete` what would be seen if nothing were before it, and the hole is
`complete * (1 - visible)`. Flows are (B, T - 1, 2, H, W) float pixels, x then y: `forward[:, t]` takes a pixel of frame
t to frame t + 1, `backward[:, t]` a pixel of frame t + 1 to frame t.
"""

import numpy as np
import torch
from torch.nn import functional as F

from .errors import InpaintingError


def check_clip(frames: torch.Tensor, **parts: torch.Tensor | None) -> None:
    """Refuse a clip whose parts do not fit each other.

    Args:
        frames: (B, T, 3, H, W).
        parts: masks (B, T, 1, H, W) and, with a name that ends in `flow`, flows (B, T - 1, 2, H, W); None is skipped.

    Raises:
        InpaintingError: a shape differs; the message names the part and both shapes.
    """
    if frames.ndim != 5 or frames.shape[2] != 3 or 0 in frames.shape:
        raise InpaintingError(f"frames must be (B, T, 3, H, W) with at least one frame, got {tuple(frames.shape)}")
    batch, length, _, height, width = frames.shape
    for name, part in parts.items():
        is_flow = name.endswith("flow")
        expected = (batch, length - 1, 2, height, width) if is_flow else (batch, length, 1, height, width)
        if part is not None and tuple(part.shape) != expected:
            raise InpaintingError(
                f"{name} must be {expected} for {length} frame{'s' * (length > 1)} of {height} x {width} px, "
                f"got {tuple(part.shape)}: {_advice(tuple(part.shape), expected)}"
            )


def _advice(shape: tuple[int, ...], expected: tuple[int, ...]) -> str:
    if len(shape) != 5 or shape[2] != expected[2]:
        return "order the axes as batch, time, channel, row, column"
    if shape[1] != expected[1]:
        return "give one mask a frame, and one flow between two neighbours"
    if shape[3:] != expected[3:]:
        return "resize it to the frames' size first (masks by nearest neighbour)"
    return "give as many clips as in frames"


def to_bytes(frames: torch.Tensor) -> torch.Tensor:
    """Frames in [-1, 1] as uint8 in [0, 255], of the same shape; undoes `from_bytes` exactly."""
    return ((frames.detach().float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def from_bytes(frames: torch.Tensor) -> torch.Tensor:
    """Frames of uint8 in [0, 255] as float32 in [-1, 1], of the same shape."""
    return frames.float() / 127.5 - 1


def as_images(frames: torch.Tensor) -> np.ndarray:
    """(T, 3, H, W) float RGB in [-1, 1] as (T, H, W, 3) uint8 BGR, OpenCV's order, on the CPU."""
    return np.ascontiguousarray(to_bytes(frames).permute(0, 2, 3, 1).cpu().numpy()[..., ::-1])


def dilate(masks: torch.Tensor, radius: int) -> torch.Tensor:
    """Grow masks (..., H, W), float in {0, 1}, by `radius` pixels in all eight directions."""
    if radius == 0:
        return masks
    flat = masks.reshape(-1, 1, *masks.shape[-2:])
    # Rows, then columns: a square is separable.
    flat = F.max_pool2d(flat, (2 * radius + 1, 1), stride=1, padding=(radius, 0))
    return F.max_pool2d(flat, (1, 2 * radius + 1), stride=1, padding=(0, radius)).reshape(masks.shape)


def away_from_hole(visible: torch.Tensor, complete: torch.Tensor, margin: int) -> torch.Tensor:
    """The visible pixels that are at least `margin` + 1 pixels away from the hole.

    Near the occluder pixels mix both objects' colours and motions. Its own outline towards the background an object
    keeps: there the complete mask ends too.

    Args:
        visible: (..., H, W) float in {0, 1}.
        complete: same shape.
        margin: pixels that are left out along the hole.

    Returns:
        Float in {0, 1}, of the same shape.
    """
    return visible * (1 - dilate(complete * (1 - visible), margin))
