"""How much of each object's box the mask of another object fills, drawn on the image."""

from collections.abc import Sequence

import cv2
import numpy as np

from .overlay import line_thickness, write_label
from .sheet import of_width

# BGR: of objects whose overlap is at the threshold or above, and of the others.
HIGH_COLOUR = np.array([40.0, 130.0, 255.0])
LOW_COLOUR = np.array([255.0, 190.0, 60.0])
_ALPHA = 0.4


def filling_masks(boxes: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Of each object the pixels of its box that belong to the one other mask which has most of them.

    Args:
        boxes: (N, 4) xyxy in pixels, rounded to whole ones here.
        masks: (N, H, W) bool.

    Returns:
        (N, H, W) bool; no pixel where no other mask reaches the box.
    """
    filling = np.zeros_like(masks)
    for index, (x0, y0, x1, y1) in enumerate(np.clip(boxes, 0, None).round().astype(int)):
        inside = masks[:, y0:y1, x0:x1]
        areas = inside.sum(axis=(1, 2))
        areas[index] = 0
        if areas.any():
            filling[index, y0:y1, x0:x1] = inside[areas.argmax()]
    return filling


def draw_overlaps(
    image: np.ndarray,
    boxes: np.ndarray,
    masks: np.ndarray,
    overlaps: Sequence[float],
    labels: Sequence[str] | None = None,
    *,
    threshold: float = 0.3,
    side: int = 480,
) -> np.ndarray:
    """Draw each object's box and the outline of its mask, with its overlap O as caption.

    What O counts, the mask of the other object inside of the box, is shaded in the colour of the box: `HIGH_COLOUR`
    for objects with O >= `threshold`, `LOW_COLOUR` for the others.

    Args:
        image: (H, W, 3) uint8, BGR; it is not changed.
        boxes: (N, 4) xyxy in pixels of the image.
        masks: (N, H, W) bool.
        overlaps: (N,) in [0, 1], see `ImageTruth.overlaps`.
        labels: (N,) text before the overlap; the number alone when left out.
        threshold: in [0, 1].
        side: the longer one of the picture, pixels.

    Returns:
        (H', W', 3) uint8, BGR.

    Raises:
        ValueError: the masks belong to an image of another size.
    """
    if masks.shape[1:] != image.shape[:2]:
        raise ValueError(f"masks of a {masks.shape[1:]} image cannot be drawn over {image.shape[:2]}")
    scale = side / max(image.shape[:2])
    canvas = of_width(image, max(round(image.shape[1] * scale), 1)).copy()
    height, width = canvas.shape[:2]

    def scaled(mask: np.ndarray) -> np.ndarray:
        return cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)

    colours = [HIGH_COLOUR if overlap >= threshold else LOW_COLOUR for overlap in overlaps]
    for filling, colour in zip(filling_masks(boxes, masks), colours, strict=True):
        shaded = scaled(filling).astype(bool)
        canvas[shaded] = (canvas[shaded] * (1 - _ALPHA) + colour * _ALPHA).astype(np.uint8)
    corners = (boxes * scale).round().astype(int)
    # High ones last, so that the others do not cover them.
    order = np.argsort(overlaps, kind="stable")
    for index in order:
        outlines, _ = cv2.findContours(scaled(masks[index]), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(canvas, outlines, -1, colours[index], line_thickness(canvas))
        x0, y0, x1, y1 = corners[index].tolist()
        cv2.rectangle(canvas, (x0, y0), (x1 - 1, y1 - 1), colours[index], line_thickness(canvas))
    for index in order:
        text = f"{overlaps[index]:.2f}"
        write_label(canvas, f"{labels[index]} {text}" if labels else text, corners[index, :2], colours[index])
    return canvas
