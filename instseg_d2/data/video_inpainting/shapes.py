"""Shapes that change over time and hide a target: object-like strokes, blobs, and the masks of other tracks.

All drawing is by integer coordinates in OpenCV, so the same numbers give the same pixels everywhere.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from ..cutouts import place
from .tracks import Track

# Sizes and speeds of strokes are those of Free-form Video Inpainting (arXiv:1904.10247) in frames of this width.
STROKE_FRAME_WIDTH = 320


class Shape(Protocol):
    """A shape in T frames."""

    def draw(self, frame: int, centre: np.ndarray, radius: float, size: tuple[int, int]) -> np.ndarray:
        """(H, W) bool: the shape in one frame.

        Args:
            frame: which.
            centre: xy of its middle, pixels.
            radius: half of its side, pixels.
            size: height and width of the result.
        """


@dataclass(frozen=True, eq=False)
class Outline:
    """A brush stroke or a filled polygon.

    Attributes:
        points: (T, n, 2) xy around (0, 0); 1 is the radius.
        brush: width of the stroke relative to the radius; None fills the polygon.
    """

    points: np.ndarray
    brush: float | None = None

    def draw(self, frame: int, centre: np.ndarray, radius: float, size: tuple[int, int]) -> np.ndarray:
        # Not rint: that rounds halves to even numbers, which a shift by a whole pixel would change.
        points = np.floor(self.points[frame] * radius + centre + 0.5).astype(np.int32)
        canvas = np.zeros(size, dtype=np.uint8)
        if self.brush is None:
            cv2.fillPoly(canvas, [points], 1)
            return canvas.astype(bool)
        width = max(1, round(self.brush * radius))
        cv2.polylines(canvas, [points], isClosed=False, color=1, thickness=width)
        for x, y in points.tolist():
            cv2.circle(canvas, (x, y), width // 2, 1, thickness=-1)
        return canvas.astype(bool)


@dataclass(frozen=True, eq=False)
class Silhouettes:
    """The masks of another track.

    Attributes:
        masks: T masks (h, w) bool, each cut to its box.
        radius: theirs, pixels.
        cuts: where the colours are: T images, and the rows and columns of the box in each.
    """

    masks: tuple[np.ndarray, ...]
    radius: float
    cuts: tuple[tuple[Path, tuple[slice, slice]], ...]

    def draw(self, frame: int, centre: np.ndarray, radius: float, size: tuple[int, int]) -> np.ndarray:
        mask = self.masks[frame]
        corner, (width, height) = self.box(frame, centre, radius)
        resized = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
        return place(resized.astype(bool), corner, size)

    def box(self, frame: int, centre: np.ndarray, radius: float) -> tuple[tuple[int, int], tuple[int, int]]:
        """Upper left corner (x, y), and width and height of what is drawn, pixels."""
        height, width = (max(1, round(side * radius / self.radius)) for side in self.masks[frame].shape)
        x, y = np.floor(np.asarray(centre) - (width / 2, height / 2) + 0.5).astype(int).tolist()
        return (x, y), (width, height)


def box_of(mask: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of a mask (H, W) bool that has a pixel."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def radius_of(masks: list[np.ndarray]) -> float:
    """Half of the typical side of masks that are cut to their boxes, pixels."""
    return float(np.median([np.sqrt(mask.shape[0] * mask.shape[1]) for mask in masks]) / 2)


def resampled(source: int, length: int) -> np.ndarray:
    """(length,) frames of a track of `source` frames, from its first to its last."""
    return np.floor(np.linspace(0, source - 1, length) + 0.5).astype(int)


def silhouettes(track: Track, length: int) -> Silhouettes:
    """The masks of a track, played faster or slower so that they last `length` frames."""
    frames = resampled(len(track.files), length)
    whole = [track.mask(frame) for frame in frames]
    boxes = [box_of(mask) for mask in whole]
    masks = tuple(np.ascontiguousarray(mask[box]) for mask, box in zip(whole, boxes, strict=True))
    cuts = tuple((track.files[frame], box) for frame, box in zip(frames, boxes, strict=True))
    return Silhouettes(masks, radius_of(list(masks)), cuts)


def stroke(rng: np.random.Generator, length: int) -> Outline:
    """An object-like stroke: 5 to 15 points of a brush that turns and speeds up, half of which tremble over time."""
    count = int(rng.integers(5, 16))
    speed, angle = rng.uniform(1, 8), rng.uniform(0, 2 * np.pi)
    points = np.zeros((count, 2))
    for number in range(1, count):
        points[number] = points[number - 1] + speed * np.array([np.cos(angle), np.sin(angle)])
        speed = np.clip(speed + rng.normal(0, 4), -8, 8)
        angle += rng.normal(0, 1.5)
    trembling = rng.permutation(count) < count // 2
    steps = rng.uniform(-5, 5, (length, count, 2)) * trembling[:, None]
    steps[0] = 0
    # They come back instead of falling apart.
    moved = points + np.clip(np.cumsum(steps, axis=0), -10, 10)
    return _unit(moved, brush=float(rng.uniform(20, 50)))


def blob(rng: np.random.Generator, length: int) -> Outline:
    """A star-shaped polygon of 6 to 8 edges, straight or bent, that keeps its form or changes it over time."""
    edges, noise = int(rng.integers(6, 9)), rng.uniform(0.6, 0.8)
    angles = (np.arange(edges) + rng.uniform(-0.3, 0.3, edges)) * (2 * np.pi / edges)
    steps = rng.normal(0, 0.08, (length, edges)) * (rng.random() < 0.5)
    steps[0] = 0
    share = rng.random(edges) + np.cumsum(steps, axis=0)
    radii = 1 - noise * (1 - np.abs((share + 1) % 2 - 1))  # reflected into [0, 1]
    corners = radii[..., None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    if rng.random() < 0.5:
        return _unit(corners)
    after = np.roll(corners, -1, axis=1)
    middle = (corners + after) / 2 * rng.uniform(0.7, 1.6, (edges, 1))
    s = np.linspace(0, 1, 8, endpoint=False)[:, None, None, None]
    curve = (1 - s) ** 2 * corners + 2 * s * (1 - s) * middle + s**2 * after  # Bezier, (8, T, edges, 2)
    return _unit(curve.transpose(1, 2, 0, 3).reshape(length, -1, 2))


def _unit(points: np.ndarray, brush: float = 0.0) -> Outline:
    """The outline around its middle, with half of the side of its typical box as the unit."""
    low, high = points.min(axis=1), points.max(axis=1)
    sides = high - low + brush
    radius = float(np.median(np.sqrt(sides.prod(axis=1))) / 2)
    middle = (low[0] + high[0]) / 2
    return Outline((points - middle) / radius, brush / radius if brush else None)
