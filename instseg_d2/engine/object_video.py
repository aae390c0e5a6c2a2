"""A video and the masks of one of its objects, read frame by frame side by side."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat

import numpy as np

from instseg_d2.data.clips import Clip, find_clips
from instseg_d2.data.errors import DatasetError
from instseg_d2.data.media import MediaError, find_media
from instseg_d2.data.object_masks import ObjectMasks
from instseg_d2.inpainting.pipeline import ObjectFrame


def open_clip(path: str) -> Clip:
    """The one video behind a path: a video file, or a folder of frames.

    Raises:
        FileNotFoundError: there is nothing.
        MediaError: it is of another type, or there are several videos.
    """
    clips = find_clips(find_media([path]), join_images=True)
    if len(clips) != 1:
        names = ", ".join(str(clip.path) for clip in clips[:5])
        raise MediaError(f"'{path}' holds {len(clips)} videos, {names}: name one of them")
    return clips[0]


@dataclass(frozen=True)
class Survey:
    """What masks say of a video before it is worked on.

    Attributes:
        frames: number of frames.
        height: of the frames, pixels.
        width: of the frames, pixels.
        seen: indices of the frames that show the object.
    """

    frames: int
    height: int
    width: int
    seen: tuple[int, ...]


@dataclass(frozen=True)
class ObjectVideo:
    """A video with an object.

    Attributes:
        clip: the frames.
        visible: its visible masks.
        complete: its complete masks, if they are known.
        occluders: where it may be hidden, if that is known.
    """

    clip: Clip
    visible: ObjectMasks
    complete: ObjectMasks | None = None
    occluders: ObjectMasks | None = None

    def survey(self) -> Survey:
        """Read all masks and the first frame.

        Raises:
            DatasetError: masks and frames differ in number or size, or no mask has a pixel.
            MediaError: something cannot be read.
        """
        first = next(self.clip.frames())
        size = first.shape[:2]
        seen: list[int] = []
        counts = {}
        for masks in (self.visible, self.complete, self.occluders):
            if masks is None:
                continue
            one_for_all = getattr(masks, "repeats", False)
            count = 0
            for count, mask in enumerate(_of_size(masks, size), start=1):
                if masks is self.visible and mask.any():
                    seen.append(count - 1)
                if one_for_all:
                    break
            if not one_for_all:
                counts[masks.where] = count
        frames = self.clip.length
        if set(counts.values()) != {frames}:
            # What a video's header says may be an estimate.
            frames = sum(1 for _ in self.clip.frames())
        for where, count in counts.items():
            if count != frames:
                raise DatasetError(
                    f"'{where}' has {count} masks, and the video '{self.clip.path}' {frames} frames: give one mask a "
                    "frame, an empty one where the object is not seen"
                )
        if not seen:
            raise DatasetError(
                f"the masks '{self.visible.where}' are empty in all {frames} frames: an object that is never visible "
                "cannot be completed; check the masks, or the number of the object"
            )
        return Survey(frames, *size, tuple(seen))

    def frames(self) -> Iterator[ObjectFrame]:
        """The frames with their masks, one at a time in memory; they end where the video or a stream of masks does.

        Raises:
            DatasetError: a mask has another size than the first frame.
            MediaError: a file cannot be read.
        """
        images = self.clip.frames()
        streams = [
            repeat(None) if one is None else one.masks() for one in (self.visible, self.complete, self.occluders)
        ]
        for image, *masks in zip(images, *streams, strict=False):
            yield ObjectFrame(image, *masks)


def _of_size(masks: ObjectMasks, size: tuple[int, int]) -> Iterator[np.ndarray]:
    for number, mask in enumerate(masks.masks()):
        if mask.shape != size:
            raise DatasetError(
                f"mask {number} of '{masks.where}' is {mask.shape[1]} x {mask.shape[0]} px, the frames are "
                f"{size[1]} x {size[0]} px: resize it by nearest neighbour, or give the frames that it was made for"
            )
        yield mask
