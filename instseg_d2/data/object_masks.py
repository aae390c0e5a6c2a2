"""The masks of one object through a video: a video or folder of masks, palette PNGs, or tracks in a json."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from .clips import Clip, find_clips
from .datasets.coco import raise_fatal, read_coco_json
from .datasets.video_validation import validate_videos
from .errors import DatasetError
from .media import IMAGE_SUFFIXES, find_media, is_video, read_frames
from .run_lengths import decode_mask

# Numbers of a palette PNG from here on mark pixels to ignore, as in DAVIS.
_VOID = 254
# A grey image whose values all lie below numbers objects; one that reaches it is black and white.
_GREY = 128


class ObjectMasks(Protocol):
    """Masks of the frames of a video, one at a time in memory.

    Attributes:
        where: what to call them in a message.
    """

    where: str

    def masks(self) -> Iterator[np.ndarray]:
        """(H, W) bool each, in the order of the frames; may be called again.

        Raises:
            DatasetError: a mask means something else than one object.
            MediaError: it cannot be read.
        """


@dataclass(frozen=True)
class MaskVideo:
    """A video whose light pixels are the object; compression may blur it.

    Attributes:
        path: the video.
    """

    path: Path

    @property
    def where(self) -> str:
        return str(self.path)

    def masks(self) -> Iterator[np.ndarray]:
        for frame in read_frames(self.path):
            yield frame.mean(axis=2) >= _GREY


@dataclass(frozen=True)
class MaskImages:
    """Images of masks: black and white, or, as PNGs with a palette or of small grey values, numbers of objects.

    Attributes:
        where: what to call them.
        files: in the order of the frames.
        object_id: number of the object; None if the images show one object alone.
        others: all numbered objects but this one.
        repeats: one image stands for all frames.
    """

    where: str
    files: tuple[Path, ...]
    object_id: int | None = None
    others: bool = False
    repeats: bool = False

    def masks(self) -> Iterator[np.ndarray]:
        seen: set[int] = set()
        while True:
            for path in self.files:
                values = _read_values(path)
                numbers = set(np.unique(values[values > 0]).tolist())
                numbered = not numbers or max(numbers) < _GREY
                yield self._mask(path, values, numbers, numbered, seen)
            if not self.repeats:
                return

    def _mask(self, path: Path, values: np.ndarray, numbers: set, numbered: bool, seen: set[int]) -> np.ndarray:
        numbers = {number for number in numbers if number < _VOID}
        if self.object_id is None and not self.others:
            if not numbered and not isinstance(values, _Indices):
                return values >= _GREY
            seen |= numbers
            if len(seen) > 1:
                raise DatasetError(
                    f"{path}: the masks number the objects {', '.join(map(str, sorted(seen)))}; choose one with "
                    "--object-id"
                )
            return (values > 0) & (values < _VOID)
        if not numbered and not isinstance(values, _Indices):
            raise DatasetError(f"{path} is black and white and does not number objects: leave the object's number out")
        if self.others:
            return (values > 0) & (values < _VOID) & (values != self.object_id)
        return values == self.object_id
