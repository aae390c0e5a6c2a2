"""Hidden objects of OccVideo without files: drawn when asked for, with exact truth of what is behind, and its flow."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..synthetic.outlines import CATEGORIES
from ..synthetic.video import Video, occvideo
from ..synthetic.video_formats import video_name, voi_masks, voi_tracks
from .appearance import Rendering, render
from .keys import split_of


@lru_cache(maxsize=64)
def _drawn(seed: int, index: int, frames: int, size: tuple[int, int]) -> Video:
    return occvideo(seed, index, frames=frames, size=size)


@dataclass(frozen=True, eq=False)
class OccVideoTrack:
    """An object of OccVideo that others hide, with what `VOITrack` has.

    Attributes:
        seed: of the set.
        index: of the video.
        length: number of frames.
        size: height and width of the frames, pixels.
        identity: of the object in the video.
        category_index: into the categories of OccVideo.
        occluders: identities of what hides it.
    """

    seed: int
    index: int
    length: int
    size: tuple[int, int]
    identity: int
    category_index: int
    occluders: tuple[int, ...]

    def __len__(self) -> int:
        return self.length

    @property
    def video(self) -> str:
        """Name of the video."""
        return video_name(self.index)

    @property
    def name(self) -> str:
        """Name of the object in the video."""
        return str(self.identity)

    @property
    def category(self) -> str:
        """Name of the category."""
        return CATEGORIES[self.category_index].name

    @property
    def split(self) -> str:
        """Which part of the set it belongs to, see `split_of`."""
        return split_of(self.video)

    @property
    def _video(self) -> Video:
        return _drawn(self.seed, self.index, self.length, self.size)

    def masks(self, frame: int) -> dict[str, np.ndarray]:
        """The four masks (H, W) bool by name."""
        return voi_masks(self._video, frame, self.identity)

    def clean(self, frame: int) -> np.ndarray:
        """(H, W, 3) uint8 BGR, the frame without what hides the object."""
        return self._video.without(frame, self.occluders)

    def observed(self, frame: int, rendering: Rendering = "composite") -> np.ndarray:
        """(H, W, 3) uint8 BGR, the frame, or the clean one with a hole."""
        if rendering == "composite":
            return self._video.images[frame]
        hidden = self.masks(frame)["occ_mask"]
        return render(self.clean(frame), hidden=hidden, occluder=None, rendering=rendering)

    def flow(self, frame: int, direction: str) -> np.ndarray:
        """Exact flow of the clean frames, (H, W, 2) float32 xy pixels, to the next frame ("forward") or back."""
        return self._video.flow(frame, 1 if direction == "forward" else -1, self.occluders)


def occvideo_tracks(
    *, videos: int, seed: int = 0, frames: int = 24, size: int | tuple[int, int] = 128
) -> list[OccVideoTrack]:
    """All objects of an OccVideo set that others hide by 5 % or more in a frame; see `write_occvideo`.

    Args:
        videos: number of videos; the last 64 that were asked for are kept in memory.
        seed: of the set.
        frames: of each video, 2 or more.
        size: height and width in pixels, one number for both.

    Raises:
        DatasetError: an argument is out of range.
    """
    height, width = (size, size) if isinstance(size, int) else tuple(size)
    found = []
    for index in range(videos):
        video = _drawn(seed, index, frames, (height, width))
        for row in voi_tracks(index, video):
            category = int(video.categories[video.number(row["id"])])
            found.append(
                OccVideoTrack(seed, index, frames, (height, width), row["id"], category, tuple(row["occluders"]))
            )
    return found
