"""Generated images on one picture, each beside its visible masks and beside its amodal outlines with occluders."""

from collections.abc import Sequence

import cv2
import numpy as np
from pycocotools import mask as mask_util

from .outlines import CATEGORIES

_TILE = 256
_GAP = 2
_LETTERS = 0.35
_WHITE = (255, 255, 255)


def _color(annotation: dict) -> tuple[int, int, int]:
    """A colour of the instance: depths that follow each other get hues that lie far apart."""
    hsv = np.uint8([[[(annotation["depth"] * 67) % 180, 255, 255]]])
    return tuple(int(channel) for channel in cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0])


def _large(mask: dict, zoom: int) -> np.ndarray:
    return mask_util.decode(mask).repeat(zoom, axis=0).repeat(zoom, axis=1)


def _label(canvas: np.ndarray, text: str, annotation: dict, zoom: int) -> None:
    """Write on a black tag in the middle of the box, inside the picture."""
    x, y, width, height = annotation["bbox"]
    (length, rise), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, _LETTERS, 1)
    left = max(0, min(int(zoom * (x + width / 2) - length / 2), canvas.shape[1] - length - 1))
    foot = min(int(zoom * (y + height / 2) + rise / 2), canvas.shape[0] - 2)
    cv2.rectangle(canvas, (left - 1, foot - rise - 1), (left + length, foot + 1), (0, 0, 0), cv2.FILLED)
    cv2.putText(canvas, text, (left, foot), cv2.FONT_HERSHEY_SIMPLEX, _LETTERS, _WHITE, 1, cv2.LINE_AA)


def _visible_picture(large: np.ndarray, annotations: Sequence[dict], zoom: int) -> np.ndarray:
    """Visible masks tinted and outlined, labelled with category and hidden share."""
    canvas = large.copy()
    for annotation in annotations:
        mask = _large(annotation["visible_segmentation"], zoom)
        canvas[mask > 0] = (0.5 * canvas[mask > 0] + 0.5 * np.array(_color(annotation))).astype(np.uint8)
        contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(canvas, contours, -1, _WHITE, 1)
    for annotation in annotations:
        name = CATEGORIES[annotation["category_id"] - 1].name
        _label(canvas, f"{name} {annotation['covered']:.0%}", annotation, zoom)
    return canvas


def _amodal_picture(large: np.ndarray, annotations: Sequence[dict], zoom: int) -> np.ndarray:
    """Amodal outlines, hidden parts hatched, labelled with the depth and the depths of the occluders."""
    canvas = (large // 2).astype(np.uint8)
    rows, columns = np.indices(large.shape[:2])
    depth = {annotation["id"]: annotation["depth"] for annotation in annotations}
    for annotation in annotations:
        whole = _large(annotation["amodal_segmentation"], zoom)
        hidden = (whole > 0) & (_large(annotation["visible_segmentation"], zoom) == 0)
        # Each depth hatches diagonals of its own, so that parts hidden at the same place can be told apart.
        canvas[hidden & ((rows + columns + 2 * annotation["depth"]) % 8 < 2)] = _color(annotation)
        contours, _ = cv2.findContours(whole, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(canvas, contours, -1, _color(annotation), 1)
    for annotation in annotations:
        behind = ",".join(str(depth[nearer]) for nearer in annotation["occluders"])
        _label(canvas, f"{annotation['depth']} < {behind}" if behind else str(annotation["depth"]), annotation, zoom)
    return canvas


def draw_contact_sheet(
    images: Sequence[np.ndarray], annotations: Sequence[Sequence[dict]], *, columns: int
) -> np.ndarray:
    """Rows of tiles: an image, its visible masks (category, hidden share), its amodal outlines.

    In the third picture "3 < 0,2" reads: number 3 by depth (0 is the nearest) lies behind numbers 0 and 2.

    Args:
        images: (H, W, 3) uint8 BGR each, all of one size; at least one.
        annotations: of each image, as `coco_content` writes them.
        columns: tiles in a row.

    Returns:
        (H', W', 3) uint8 BGR.
    """
    zoom = max(1, round(_TILE / images[0].shape[0]))
    tiles = []
    for image, listed in zip(images, annotations, strict=True):
        large = image.repeat(zoom, axis=0).repeat(zoom, axis=1)
        triple = [large, _visible_picture(large, listed, zoom), _amodal_picture(large, listed, zoom)]
        tiles.append(cv2.copyMakeBorder(np.hstack(triple), *[_GAP] * 4, cv2.BORDER_CONSTANT, value=_WHITE))
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % columns)
    return np.vstack([np.hstack(tiles[start : start + columns]) for start in range(0, len(tiles), columns)])
