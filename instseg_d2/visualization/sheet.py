"""Several pictures on one: pairs side by side with captions, and grids."""

from collections.abc import Sequence

import cv2
import numpy as np

_CAPTION_HEIGHT = 22
_BACKGROUND = 255


def _captioned(image: np.ndarray, caption: str) -> np.ndarray:
    bar = np.full((_CAPTION_HEIGHT, image.shape[1], 3), _BACKGROUND, np.uint8)
    cv2.putText(bar, caption, (3, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([bar, image])


def _padded(image: np.ndarray, height: int, width: int) -> np.ndarray:
    below, right = height - image.shape[0], width - image.shape[1]
    return cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_CONSTANT, value=(_BACKGROUND,) * 3)


def of_width(image: np.ndarray, width: int) -> np.ndarray:
    """Scale a picture (H, W, 3) uint8 to that many pixels across; enlarged ones show their pixels as squares."""
    scale = width / image.shape[1]
    size = width, max(round(image.shape[0] * scale), 1)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)


def side_by_side(images: Sequence[np.ndarray], captions: Sequence[str]) -> np.ndarray:
    """Put pictures next to each other, each under its caption.

    Args:
        images: (H, W, 3) uint8 BGR each, of any sizes.
        captions: one a picture.

    Returns:
        One (H', W', 3) uint8 BGR picture.
    """
    columns = [_captioned(image, caption) for image, caption in zip(images, captions, strict=True)]
    return tile(columns, columns=len(columns))


def tile(images: Sequence[np.ndarray], *, columns: int, gap: int = 4) -> np.ndarray:
    """Arrange pictures in a grid, row by row; smaller ones are padded with white.

    Args:
        images: (H, W, 3) uint8 BGR each; at least one.
        columns: of the grid.
        gap: white pixels between cells.

    Returns:
        One (H', W', 3) uint8 BGR picture.
    """
    height = max(image.shape[0] for image in images) + gap
    width = max(image.shape[1] for image in images) + gap
    cells = [_padded(image, height, width) for image in images]
    cells += [np.full_like(cells[0], _BACKGROUND)] * (-len(cells) % columns)
    rows = [np.concatenate(cells[start : start + columns], axis=1) for start in range(0, len(cells), columns)]
    return np.concatenate(rows)
