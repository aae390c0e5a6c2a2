"""Where prototypes look: the regions of an image, or of an object's box, that each of them stands for, over time."""

from collections.abc import Sequence

import cv2
import numpy as np
import torch

from .film_strip import header, row, scale_frame, stack
from .overlay import id_colour
from .panels import Heat, faded

_HEAT = Heat(0.0, None)
# Opacity of a prototype that takes a pixel by a hair, and of one that takes it alone.
_ALPHAS = 0.35, 0.85


def paint_regions(picture: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Tint each pixel in the colour of the prototype that it belongs to most, the more the surer that is.

    Args:
        picture: (H, W, 3) uint8, BGR; it is not changed.
        shares: (N, H, W) in [0, 1] of N >= 1 prototypes; NaN where they say nothing.

    Returns:
        (H, W, 3) uint8, BGR. Prototype j has the colour of id j + 1.
    """
    canvas = faded(picture)
    known = np.isfinite(shares).all(axis=0)
    shares = np.nan_to_num(shares)
    palette = np.stack([id_colour(index + 1) for index in range(len(shares))])
    best = shares.max(axis=0)
    # Even shares of all prototypes are no answer.
    even = 1 / len(shares)
    sure = ((best - even) / (1 - even) if len(shares) > 1 else best).clip(0, 1)
    opacity = ((_ALPHAS[0] + (_ALPHAS[1] - _ALPHAS[0]) * np.sqrt(sure)) * known)[..., None]
    return (canvas * (1 - opacity) + palette[shares.argmax(axis=0)] * opacity).astype(np.uint8)


def most_attended(shares: Sequence[np.ndarray], count: int) -> list[int]:
    """Of N prototypes the `count` that take most of the pixels of all frames, (N, h, w) each, the greatest first."""
    mean = np.mean([maps.reshape(len(maps), -1).mean(axis=1) for maps in shares], axis=0)
    return np.argsort(-mean, kind="stable")[:count].tolist()


def paint_shares(pictures: Sequence[np.ndarray], shares: Sequence[np.ndarray | None]) -> tuple[list[np.ndarray], str]:
    """Heat maps of one prototype in several pictures, with one scale from 0 on.

    Args:
        pictures: (H, W, 3) uint8, BGR; they are not changed.
        shares: (H, W) of each, NaN where it says nothing; None leaves the picture faded.

    Returns:
        (H, W, 3) uint8 BGR each, and the scale in words.
    """
    style = _HEAT.fitted([maps for maps in shares if maps is not None])
    grey = np.full(3, 128.0)
    drawn = [
        faded(picture) if maps is None else style.draw(picture, maps, grey)
        for picture, maps in zip(pictures, shares, strict=True)
    ]
    return drawn, f"0 to {style.high:.2g}"


def draw_attended_regions(
    frames: Sequence[np.ndarray],
    shares: Sequence[torch.Tensor | np.ndarray | None],
    *,
    numbers: Sequence[int] | None = None,
    title: str = "",
    prototypes: int = 3,
    height: int = 120,
) -> np.ndarray:
    """Draw which part of each frame is read from which prototype of the memory (PCAN's frame level, eq. 5.5).

    The first row has for each pixel the colour of its prototype; a prototype that stands for the same thing throughout
    the video keeps its place on it. The rows below are the shares of single prototypes.

    Args:
        frames: (H, W, 3) uint8 BGR each, at least one.
        shares: per frame (N, h, w) in [0, 1] on the grid of a feature map that covers the frame; sum to 1 over N. None
            for a frame without memory, such as the first one.
        numbers: of the frames in their video; without them 0 and on.
        title: stands beside the first row, such as the name of the feature map.
        prototypes: so many are drawn alone, those that take most.
        height: of a picture, pixels.

    Returns:
        (H', W', 3) uint8, BGR.

    Raises:
        ValueError: maps and frames differ in number, or maps in their number of prototypes.
    """
    known = [None if maps is None else np.asarray(torch.as_tensor(maps).detach().float().cpu()) for maps in shares]
    counts = {len(maps) for maps in known if maps is not None}
    if not len(frames) or len(known) != len(frames) or len(counts) > 1:
        raise ValueError(
            f"there are {len(frames)} frames, and maps of {len(known)} with {sorted(counts)} prototypes; each frame "
            "has maps of the same number of prototypes, or None"
        )
    pictures = [scale_frame(frame, height) for frame in frames]
    large = [None if maps is None else _enlarge(maps, picture) for maps, picture in zip(known, pictures, strict=True)]
    pairs = list(zip(pictures, large, strict=True))
    lines = [row(title or "prototypes", [_regions(*pair) for pair in pairs])]
    for index in most_attended([maps for maps in known if maps is not None], prototypes) if counts else []:
        single, scale = paint_shares(pictures, [None if maps is None else maps[index] for maps in large])
        lines.append(row(f"prototype {index}: {scale}", single))
    widths = [picture.shape[1] for picture in pictures]
    return stack([header(range(len(frames)) if numbers is None else numbers, widths), *lines])


def _enlarge(maps: np.ndarray, picture: np.ndarray) -> np.ndarray:
    size = picture.shape[1::-1]
    return np.stack([cv2.resize(one, size, interpolation=cv2.INTER_LINEAR) for one in maps])


def _regions(picture: np.ndarray, maps: np.ndarray | None) -> np.ndarray:
    return faded(picture) if maps is None else paint_regions(picture, maps)
