"""Which videos, and which of their frames, an evaluation looks at."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from instseg_d2.data import DatasetError


@dataclass(frozen=True)
class VideoSelection:
    """Some videos, and the same share of the frames of each.

    Attributes:
        part: first and last end of that share: (0, 1) is everything, (0.5, 1) the second half of every video.
        videos: names of videos, or ids where the truth has them; None for all.

    Raises:
        ValueError: `part` is no range within [0, 1].
    """

    part: Sequence[float] = (0.0, 1.0)
    videos: Collection[str | int] | None = None

    def __post_init__(self) -> None:
        if len(self.part) != 2 or not 0 <= self.part[0] < self.part[1] <= 1:
            raise ValueError(f"part={tuple(self.part)}: must be two numbers from 0 to 1, the first one smaller")

    def frames(self, length: int) -> range:
        """The frames of a video of some length. Two shares that meet, such as both halves, have no frame in common."""
        first, end = (math.floor(share * length + 0.5) for share in self.part)
        return range(first, end)

    def check(self, known: Iterable[Collection[str | int]]) -> None:
        """See whether all videos that are asked for are there.

        Args:
            known: the names and ids of each video.

        Raises:
            DatasetError: one is not.
        """
        known = [set(map(str, names)) for names in known]
        missing = [video for video in self.videos or () if not any(str(video) in names for names in known)]
        if missing:
            there = ", ".join(sorted(" or ".join(sorted(names)) for names in known)[:8])
            raise DatasetError(f"no video {', '.join(map(str, missing))} among the {len(known)} of the truth: {there}")

    def takes(self, names: Collection[str | int]) -> bool:
        """Whether a video of these names and ids is one of them."""
        return self.videos is None or not set(map(str, names)).isdisjoint(map(str, self.videos))


EVERYTHING = VideoSelection()


def video_names(video: Mapping[str, Any]) -> tuple[str | int, ...]:
    """Id and names of a video of a YouTube-VIS file: its `name`, or else the folder of its frames."""
    names = [video["id"], video.get("name")]
    files = video.get("file_names") or ()
    names += [PurePosixPath(files[0]).parent.as_posix()] if files else []
    return tuple(name for name in names if name not in (None, "."))
