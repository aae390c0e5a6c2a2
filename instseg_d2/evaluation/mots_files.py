"""Where the instances of videos are read from: folders of bitmasks, or Scalabel's json with run lengths."""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from instseg_d2.data import DatasetError
from instseg_d2.data.instance_maps import InstanceMap, empty_map, map_of_labels, read_bitmask, read_scalabel


class MaskFrames(Protocol):
    """Frames of videos with their instances.

    Attributes:
        name: tells a user what it is.
        frames: numbers of the frames of each video, from 0 on and rising.
    """

    name: str
    frames: Mapping[str, Sequence[int]]

    def read(self, video: str, frame: int) -> InstanceMap:
        """Instances of a frame; a map of any size when there are none.

        Raises:
            DatasetError: they cannot be read; the message names the file or the frame.
        """


class BitmaskFolder:
    """A folder with a folder of bitmasks for each video, `video/video-0000001.png` and on, as `MaskFrames`.

    The number at the end of a name, less 1, is the frame's. Where names have no numbers the frames are counted.

    Raises:
        DatasetError: there is no such folder, or nothing in it.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self.name = os.fspath(folder)
        found = defaultdict(list)
        for path in sorted(Path(folder).glob("*/*.png")):
            found[path.parent.name].append(path)
        if not found:
            raise DatasetError(
                f"no bitmasks in {folder}: expected is a folder for each video, with a PNG for each frame"
            )
        self._files = {video: _numbered(files) for video, files in found.items()}
        self.frames = {video: sorted(files) for video, files in self._files.items()}

    def read(self, video: str, frame: int) -> InstanceMap:
        return read_bitmask(self._files[video][frame])


def _numbered(files: Sequence[Path]) -> dict[int, Path]:
    found = [re.search(r"(\d+)$", path.stem) for path in files]
    numbers = [int(one[1]) - 1 for one in found if one]
    return dict(zip(numbers if len(set(numbers)) == len(files) else range(len(files)), files, strict=True))


class RleFrames:
    """Scalabel's json as `MaskFrames`: frames with `videoName`, `frameIndex` and `labels`.

    Args:
        source: a file, a folder of files, or frames.
        class_names: categories in the order of their class indices.

    Raises:
        DatasetError: there are no frames, or one does not say of which video it is.
    """

    def __init__(self, source: str | os.PathLike | Sequence[Mapping[str, Any]], class_names: Sequence[str]) -> None:
        is_path = isinstance(source, str | os.PathLike)
        self.name = os.fspath(source) if is_path else "the frames"
        self._class_names = list(class_names)
        self._frames: dict[str, dict[int, Mapping[str, Any]]] = defaultdict(dict)
        for frame in _read_all(source) if is_path else source:
            video, number = frame.get("videoName"), frame.get("frameIndex")
            if video is None or number is None:
                raise DatasetError(f"{self.name}: frame {frame.get('name')!r} has no 'videoName' and 'frameIndex'")
            if number in self._frames[video]:
                raise DatasetError(f"{self.name}: frame {number} of video {video} occurs twice")
            self._frames[video][number] = frame
        if not self._frames:
            raise DatasetError(f"{self.name} has no frames")
        self.frames = {video: sorted(frames) for video, frames in self._frames.items()}
        self._identities = {video: _identities(frames.values()) for video, frames in self._frames.items()}

    @property
    def has_scores(self) -> bool:
        """Whether there are labels, and each has a score, so that AP can be computed."""
        labels = [label for video, frames in self.frames.items() for at in frames for label in self.labels(video, at)]
        return bool(labels) and all(label.get("score") is not None for label in labels)

    def labels(self, video: str, frame: int) -> list[dict[str, Any]]:
        """Labels of a frame as they are in the file."""
        return self._frames[video][frame].get("labels") or []

    def read(self, video: str, frame: int) -> InstanceMap:
        labels, where = self.labels(video, frame), f"{self.name}: frame {frame} of video {video}"
        size = self._frames[video][frame].get("size")
        sizes = {(size["height"], size["width"])} if size else set()
        sizes |= {tuple((label.get("rle") or {}).get("size") or ()) for label in labels}
        if not sizes:
            return empty_map(0, 0)
        if len(sizes) != 1 or len(next(iter(sizes))) != 2:
            raise DatasetError(f"{where}: every label needs an 'rle' with 'counts' and the same 'size'")
        return map_of_labels(labels, self._class_names, next(iter(sizes)), where, self._identities[video])


def _read_all(source: str | os.PathLike) -> list[dict[str, Any]]:
    path = Path(source)
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    return [frame for file in files for frame in read_scalabel(file)]


def _identities(frames: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Numbers of a video's identities, if one of them is no number itself."""
    names = sorted({str(label.get("id")) for frame in frames for label in frame.get("labels") or ()})
    return {} if all(name.isdigit() for name in names) else {name: number for number, name in enumerate(names, start=1)}


def open_frames(source: str | os.PathLike, class_names: Sequence[str]) -> MaskFrames:
    """A folder of bitmasks, or run lengths: a json file, or a folder of them.

    Raises:
        DatasetError: it is neither.
    """
    path = Path(source)
    if not path.exists():
        raise DatasetError(f"there is no {source}")
    if path.is_file() or any(path.glob("*.json")):
        return RleFrames(path, class_names)
    return BitmaskFolder(path)
