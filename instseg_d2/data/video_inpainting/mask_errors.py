"""Visible masks with errors of a given kind and size, to test how completion takes them (thesis Fig. 5.13)."""

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True, kw_only=True)
class MaskErrors:
    """What is wrong with every visible mask of a clip.

    Attributes:
        grow: pixels by which masks are dilated, eroded if negative; a mask that would be empty, as far as it is not.
        lose: chance of each connected part of a mask to be missing; one part always stays.
        add: chance of a mask to have a part too much: itself, moved by half its box in a random direction.
    """

    grow: int = 0
    lose: float = 0.0
    add: float = 0.0

    def __post_init__(self):
        if not (0 <= self.lose <= 1 and 0 <= self.add <= 1):
            raise ValueError(f"lose and add must be chances, got {self}")

    def __call__(self, rng: np.random.Generator, masks: np.ndarray) -> np.ndarray:
        """Spoil masks (T, H, W) bool; a new array."""
        return np.stack([self._added(rng, self._lost(rng, self._grown(mask))) for mask in masks])

    def _grown(self, mask: np.ndarray) -> np.ndarray:
        sizes = range(self.grow, 1) if self.grow < 0 else (self.grow,)
        return next((result for size in sizes if (result := grown(mask, size)).any()), mask)

    def _lost(self, rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
        count, parts = cv2.connectedComponents(mask.astype(np.uint8))
        missing = rng.random(count - 1) < self.lose
        if missing.all() and count > 1:
            missing[rng.integers(count - 1)] = False
        return mask & ~np.isin(parts, 1 + np.flatnonzero(missing))

    def _added(self, rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
        if rng.random() >= self.add or not mask.any():
            return mask
        _, _, width, height = cv2.boundingRect(mask.astype(np.uint8))
        angle = rng.uniform(0, 2 * np.pi)
        step = np.float32([[1, 0, width / 2 * np.cos(angle)], [0, 1, height / 2 * np.sin(angle)]])
        moved = cv2.warpAffine(mask.astype(np.uint8), step, mask.shape[::-1], flags=cv2.INTER_NEAREST)
        return mask | moved.astype(bool)


def grown(mask: np.ndarray, pixels: int) -> np.ndarray:
    """A mask (H, W) bool, dilated by a disc of that radius, or eroded if `pixels` < 0."""
    if pixels == 0:
        return mask
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * abs(pixels) + 1,) * 2)
    return (cv2.dilate if pixels > 0 else cv2.erode)(mask.astype(np.uint8), disc).astype(bool)
