"""The part of an image around an instance, and maps of the instance put into it."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

# Surroundings of a box in its crop, on each side, as a share of the box's longer side.
_CONTEXT = 0.15


@dataclass(frozen=True)
class Crop:
    """A square part of the image around a box, shown as `side` x `side` pixels.

    Attributes:
        left, top: its corner in the image, pixels; it may lie outside of it.
        extent: its side in the image, pixels.
        side: its side in the picture.
        box: xyxy in pixels of the picture.
    """

    left: int
    top: int
    extent: int
    side: int
    box: tuple[float, float, float, float]

    @classmethod
    def around(cls, box: Sequence[float], side: int) -> "Crop":
        """The crop of a box (xyxy, pixels of the image), which lies in its middle."""
        x0, y0, x1, y1 = map(float, box)
        extent = max(int(np.ceil(max(x1 - x0, y1 - y0) * (1 + 2 * _CONTEXT))), 1)
        left, top = (int(np.floor((start + end - extent) / 2)) for start, end in ((x0, x1), (y0, y1)))
        scale = side / extent
        place = ((x0 - left) * scale, (y0 - top) * scale, (x1 - left) * scale, (y1 - top) * scale)
        return cls(left, top, extent, side, place)

    def of_image(self, plane: np.ndarray, beyond: float) -> np.ndarray:
        """The crop of an image (H, W, 3) or map (H, W), scaled; `beyond` fills what lies outside of it.

        Enlarged maps keep their pixels, so that it is seen how coarse they are.
        """
        rows, columns = (np.arange(start, start + self.extent) for start in (self.top, self.left))
        height, width = plane.shape[:2]
        part = plane[rows.clip(0, height - 1)[:, None], columns.clip(0, width - 1)]
        part[self._outside(rows, columns, plane.shape)] = beyond
        enlarge = cv2.INTER_CUBIC if plane.ndim == 3 else cv2.INTER_NEAREST
        interpolation = cv2.INTER_AREA if self.extent > self.side else enlarge
        return cv2.resize(part, (self.side, self.side), interpolation=interpolation)

    def beyond(self, image_size: tuple[int, int]) -> np.ndarray:
        """(side, side) bool: pixels of the picture outside of an image of (height, width)."""
        centres = (np.arange(self.side) + 0.5) * self.extent / self.side
        return self._outside(np.floor(centres + self.top), np.floor(centres + self.left), image_size)

    @staticmethod
    def _outside(rows: np.ndarray, columns: np.ndarray, image_size: Sequence[int]) -> np.ndarray:
        no_row, no_column = (
            (index < 0) | (index >= end) for index, end in zip((rows, columns), image_size, strict=False)
        )
        return no_row[:, None] | no_column

    def of_box(self, cells: np.ndarray) -> np.ndarray:
        """A map (M, M') relative to the box put into the crop, (side, side) float32; NaN outside of the box.

        Between the centres of cells, floats are interpolated, as in pasting a mask; bools are not.
        """
        x0, y0, x1, y1 = self.box
        height, width = cells.shape
        across, down = (x1 - x0) / width, (y1 - y0) / height
        matrix = np.array([[across, 0, x0 + (across - 1) / 2], [0, down, y0 + (down - 1) / 2]])
        flags = cv2.INTER_NEAREST if cells.dtype == bool else cv2.INTER_LINEAR
        values = cv2.warpAffine(
            cells.astype(np.float32), matrix, (self.side, self.side), flags=flags, borderMode=cv2.BORDER_REPLICATE
        )
        centres = np.arange(self.side) + 0.5
        inside = ((centres > y0) & (centres < y1))[:, None] & ((centres > x0) & (centres < x1))
        return np.where(inside, values, np.float32(np.nan))

    def place(self, values: np.ndarray) -> np.ndarray:
        """The crop (side, side) float32 of what `Panel.values` gives for one instance."""
        return self.of_box(values[0]) if values.ndim == 3 else self.of_image(values.astype(np.float32), np.nan)
