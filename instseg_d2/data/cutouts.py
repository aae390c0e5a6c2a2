"""Objects cut out of images by their masks, to be put into others: cutting, resizing, pasting, and drawing them."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from detectron2.data import DatasetFromList

from .errors import DatasetError, SampleError
from .run_lengths import decode_mask

Record = dict[str, Any]
Annotation = dict[str, Any]

# Pixels. Many masks drawn by hand end one pixel before the border that cuts their object off.
_BORDER = 2


@contextmanager
def explained(record: Record, attempt: str) -> Iterator[None]:
    """Turn any error inside into a `SampleError` that names the image.

    Args:
        record: of the image.
        attempt: what is being tried, with `{}` in the place of the image.
    """
    try:
        yield
    except SampleError:
        raise
    except Exception as error:
        image = f"image {record.get('file_name')} (id {record.get('image_id')!r})"
        advice = (
            "; restore the file, or take the image out of the annotation file" if isinstance(error, OSError) else ""
        )
        raise SampleError(f"{attempt.format(image)}: {type(error).__name__}: {error}{advice}") from error


@dataclass(frozen=True, eq=False)
class Cutout:
    """A part of an image and the object's mask in it.

    Attributes:
        image: (h, w, C), of the type of the image it comes from.
        mask: (h, w) bool.
    """

    image: np.ndarray
    mask: np.ndarray

    @property
    def area(self) -> int:
        """Pixels of the mask."""
        return int(np.count_nonzero(self.mask))


def cut_out(image: np.ndarray, mask: np.ndarray) -> Cutout:
    """The object, in the smallest window that holds its mask.

    Args:
        image: (H, W, C).
        mask: (H, W) bool.

    Raises:
        ValueError: the mask is empty.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        raise ValueError("an empty mask cuts nothing out")
    window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Cutout(image[window].copy(), mask[window].copy())


def mirror(cutout: Cutout) -> Cutout:
    """The object seen in a mirror, left to right."""
    return Cutout(cutout.image[:, ::-1].copy(), cutout.mask[:, ::-1].copy())


def resize(cutout: Cutout, factor: float) -> Cutout:
    """The object enlarged or reduced; `mask` may come out empty.

    Pixels outside of the mask do not mix into those inside, so that no rim of the old background appears.
    """
    height, width = (max(1, round(side * factor)) for side in cutout.mask.shape)
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    weight = cutout.mask.astype(np.float32)
    weighted = cutout.image * weight[..., None]
    weight, weighted = (cv2.resize(plane, (width, height), interpolation=method) for plane in (weight, weighted))
    colour = weighted.reshape(height, width, -1) / np.maximum(weight, 1e-3)[..., None]
    return Cutout(_as_type(colour, cutout.image.dtype), weight >= 0.5)


def soft_edge(mask: np.ndarray) -> np.ndarray:
    """Opacity of an object (h, w) float32: 1 inside, less on its outermost ring of pixels, 0 outside of the mask.

    The ring has the share of the mask in 3 x 3 px, and at least 0.5: what is annotated is also seen.
    """
    padded = cv2.copyMakeBorder(mask.astype(np.float32), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    share = cv2.blur(padded, (3, 3))[1:-1, 1:-1]
    return np.where(mask, np.clip(share, 0.5, 1), 0).astype(np.float32)


def place(mask: np.ndarray, corner: tuple[int, int], height_width: tuple[int, int]) -> np.ndarray:
    """A cutout's mask in the image, (H, W) bool; what lies outside is cut off.

    Args:
        mask: (h, w) bool.
        corner: x, y of its upper left pixel in the image, which may be outside of it.
        height_width: of the image.
    """
    result = np.zeros(height_width, dtype=bool)
    there, here = _windows(mask.shape, corner, height_width)
    result[there] = mask[here]
    return result


def paste(image: np.ndarray, cutout: Cutout, corner: tuple[int, int]) -> np.ndarray:
    """A copy of the image with the object in it, with a soft edge of one pixel.

    Args:
        image: (H, W, C).
        cutout: with as many channels.
        corner: see `place`.
    """
    result = image.copy()
    there, here = _windows(cutout.mask.shape, corner, image.shape[:2])
    opacity = soft_edge(cutout.mask)[here][..., None]
    result[there] = _as_type(image[there] * (1 - opacity) + cutout.image[here] * opacity, image.dtype)
    return result


def _windows(size: tuple[int, int], corner: tuple[int, int], height_width: tuple[int, int]) -> tuple[tuple, tuple]:
    """The part of the image that a window covers, and the part of the window that is inside of the image."""
    there, here = [], []
    for length, start, limit in zip(size, corner[::-1], height_width, strict=True):
        first, last = min(max(start, 0), limit), min(max(start + length, 0), limit)
        there.append(slice(first, last))
        here.append(slice(first - start, last - start))
    return tuple(there), tuple(here)


def _as_type(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        values = np.clip(np.rint(values), limits.min, limits.max)
    return values.astype(dtype)


class CutoutPool:
    """The instances of a data set that may be cut out, drawn one at a time, each as likely as any other.

    Args:
        records: in detectron2's format, with `height` and `width`. They are kept packed, once for all worker processes.
        cutting_mask: gives the mask of an annotation to cut by, in one of COCO's forms, or None if there is none: the
            instance is then never drawn.
        at_border: whether to give objects that reach the border of their image, where they end in a straight line.

    Raises:
        DatasetError: there is no instance to cut out.
    """

    def __init__(self, records: Iterable[Record], cutting_mask: Callable[[Annotation], Any], *, at_border: bool = True):
        listed = list(records)
        self._cutting_mask = cutting_mask
        self._at_border = at_border
        where = [
            (position, number)
            for position, record in enumerate(listed)
            for number, annotation in enumerate(record.get("annotations", ()))
            if not annotation.get("iscrowd", 0) and cutting_mask(annotation) is not None
        ]
        if not where:
            raise DatasetError(f"no instance with a mask to cut out in {len(listed)} images; use records with masks")
        self._where = np.array(where, dtype=np.int32)
        self._records = DatasetFromList(listed, copy=False)

    def __len__(self) -> int:
        return len(self._where)

    def draw(
        self, rng: np.random.Generator, read_image: Callable[[Record], np.ndarray]
    ) -> tuple[Cutout, Annotation] | None:
        """A random instance and its annotation; None if its mask is empty, or at the border where it must not be.

        Args:
            rng: where the choice comes from.
            read_image: gives the image (H, W, C) of a record, of the size that the record says.

        Raises:
            SampleError: its image or mask cannot be read; the message names the file and the ids.
        """
        position, number = self._where[rng.integers(len(self._where))]
        record = self._records[int(position)]
        annotation = record["annotations"][number]
        with explained(record, f"cannot cut annotation {annotation.get('id', f'number {number}')} out of {{}}"):
            # Before the image, which takes far longer to read.
            mask = decode_mask(self._cutting_mask(annotation), record["height"], record["width"])
            if not mask.any() or not (self._at_border or _is_inside(mask)):
                return None
            image = read_image({key: value for key, value in record.items() if key != "annotations"})
            return cut_out(image, mask), annotation


def _is_inside(mask: np.ndarray) -> bool:
    sides = mask[:_BORDER], mask[-_BORDER:], mask[:, :_BORDER], mask[:, -_BORDER:]
    return not any(side.any() for side in sides)
