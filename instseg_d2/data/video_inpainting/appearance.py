"""What occluders look like, and the two ways to show a frame with a hidden object."""

from typing import Literal, get_args

import cv2
import numpy as np

from ..cutouts import place
from ..media import load_image
from .occlusion import Occlusion
from .shapes import Silhouettes

# "composite": the occluder is seen. "hole": what it hides is grey, what it covers beside the target is left as it was.
Rendering = Literal["composite", "hole"]
RENDERINGS: tuple[str, ...] = get_args(Rendering)

# Zero in [-1, 1].
GREY = 128


def render(clean: np.ndarray, *, hidden: np.ndarray, occluder: np.ndarray | None, rendering: Rendering) -> np.ndarray:
    """A frame as it is observed.

    Args:
        clean: (H, W, 3) uint8, the frame without the occluder.
        hidden: (H, W) bool, the hidden part of the target.
        occluder: (H, W, 4) uint8, colours and opacity of the occluder; a "hole" needs none.
        rendering: which way.

    Returns:
        (H, W, 3) uint8, equal to `clean` where nothing is laid over it.
    """
    if rendering == "hole":
        return np.where(hidden[..., None], np.uint8(GREY), clean)
    return np.where(occluder[..., 3:] > 0, occluder[..., :3], clean)


def colour(occlusion: Occlusion, frame: int, texture: np.ndarray) -> np.ndarray:
    """An occluder in one frame with its colours.

    Another track brings its own pixels. Other shapes carry a texture with them.

    Args:
        occlusion: the occluder.
        frame: which.
        texture: (h, w, 3) uint8 BGR, of any size.

    Returns:
        (H, W, 4) uint8 BGRA; 255 on the mask of the occluder, all zero elsewhere.
    """
    mask = occlusion.masks[frame]
    if isinstance(occlusion.shape, Silhouettes):
        painted = _own_pixels(occlusion, frame)
    else:
        painted = _carried(texture, occlusion.centres[frame], mask.shape)
    return np.dstack([painted, np.full(mask.shape, 255, np.uint8)]) * mask[..., None]


def _own_pixels(occlusion: Occlusion, frame: int) -> np.ndarray:
    file, box = occlusion.shape.cuts[frame]
    corner, size = occlusion.shape.box(frame, occlusion.centres[frame], occlusion.radius)
    image = cv2.resize(load_image(file)[box], size, interpolation=cv2.INTER_LINEAR)
    result = np.zeros((*occlusion.masks.shape[1:], 3), dtype=np.uint8)
    inside = place(np.ones(image.shape[:2], dtype=bool), corner, result.shape[:2])
    columns, rows = (np.flatnonzero(inside.any(axis=axis)) for axis in (0, 1))
    result[inside] = image[np.ix_(rows - corner[1], columns - corner[0])].reshape(-1, 3)
    return result


def _carried(texture: np.ndarray, centre: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The texture with its middle at a point, continued by mirrors."""
    x, y = np.floor(centre + 0.5).astype(int)
    rows, columns = (
        _mirrored(np.arange(length) - start + side // 2, side)
        for length, start, side in zip(size, (y, x), texture.shape[:2], strict=True)
    )
    return texture[np.ix_(rows, columns)]


def _mirrored(places: np.ndarray, side: int) -> np.ndarray:
    there = places % (2 * side)
    return np.minimum(there, 2 * side - 1 - there)
