"""One object through one video, from whatever data set, and which of them can be the target of an occlusion."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..run_lengths import decode_mask


@dataclass(frozen=True, eq=False)
class Track:
    """An object in T annotated frames of a video.

    Attributes:
        dataset: name of the data set.
        video: name of the video, unique in the data set.
        identity: of the object, unique in the video.
        category: its name, None if unknown.
        files: T images.
        masks: T masks of what is seen of it, in any of COCO's forms; None where it is not seen.
        size: height and width of the frames, pixels.
    """

    dataset: str
    video: str
    identity: int
    category: str | None
    files: tuple[Path, ...]
    masks: tuple[Any, ...]
    size: tuple[int, int]

    @property
    def key(self) -> tuple[str, str, int]:
        """What names the track; sorts tracks in the same way however they are listed."""
        return self.dataset, self.video, self.identity

    def mask(self, frame: int) -> np.ndarray:
        """(H, W) bool, empty where the object is not seen."""
        return decode_mask(self.masks[frame] or [], *self.size)

    def stack(self) -> np.ndarray:
        """(T, H, W) bool, all masks."""
        return np.stack([self.mask(frame) for frame in range(len(self.files))])


@dataclass(frozen=True, kw_only=True)
class TrackRules:
    """Which tracks make good targets.

    Attributes:
        frames: a target has a mask in at least that many annotated frames in a row; only the longest row is kept.
        area: least and greatest median area, as a share of the frame.
        area_ratio: from one frame to the next the area grows or shrinks at most by this factor.
        at_border: the mask touches the border in at most this share of the frames.
        size: least height and width of the frames, pixels. YouTube-VOI is said to have more than 480 and 640.
    """

    frames: int = 15
    area: tuple[float, float] = (0.01, 0.5)
    area_ratio: float = 3.0
    at_border: float = 0.5
    size: tuple[int, int] = (0, 0)

    def __post_init__(self):
        low, high = self.area
        if self.frames < 1 or not 0 <= low <= high <= 1 or self.area_ratio < 1 or not 0 <= self.at_border <= 1:
            raise ValueError(
                "frames and area_ratio must be 1 or more, area two rising shares and at_border a share of 1; got "
                f"frames={self.frames}, area_ratio={self.area_ratio}, area={self.area}, at_border={self.at_border}"
            )

    def judge(self, track: Track) -> tuple[Track | None, str]:
        """The track cut to its longest row of frames, or None and why it is no target."""
        if track.size[0] < self.size[0] or track.size[1] < self.size[1]:
            return None, "frames too small"
        row = _longest_row([mask is not None for mask in track.masks])
        if len(row) < self.frames:
            return None, "too few frames in a row"
        track = replace(track, files=track.files[row.start : row.stop], masks=track.masks[row.start : row.stop])
        masks = track.stack()
        areas = masks.sum(axis=(1, 2))
        if not self.area[0] <= np.median(areas) / masks[0].size <= self.area[1]:
            return None, "too small or too large"
        ratios = areas[1:] / areas[:-1]
        if len(ratios) and max(ratios.max(), 1 / ratios.min()) > self.area_ratio:
            return None, "area jumps"
        if _at_border(masks).mean() > self.at_border:
            return None, "cut off by the border"
        return track, ""


def _longest_row(present: list[bool]) -> range:
    """The first of the longest runs of True."""
    best = row = range(0)
    for place, here in enumerate(present):
        row = range(row.start if len(row) else place, place + 1) if here else range(0)
        best = max(best, row, key=len)
    return best


def _at_border(masks: np.ndarray) -> np.ndarray:
    """(T,) bool: whether each mask has a pixel at the border of its frame."""
    sides = masks[:, 0], masks[:, -1], masks[:, :, 0], masks[:, :, -1]
    return np.any([side.any(axis=1) for side in sides], axis=0)
