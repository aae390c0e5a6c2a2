"""Images and videos by file name, folder or glob pattern."""

import glob
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from detectron2.data.detection_utils import read_image

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})
VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v"})


class MediaError(ValueError):
    """A file cannot be read as an image or video."""


def is_video(path: Path) -> bool:
    """Whether the file name is a video's."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def _natural(path: Path) -> list:
    return [int(part) if part.isdigit() else part.lower() for part in re.split(r"(\d+)", str(path))]


def find_media(inputs: Iterable[str | os.PathLike]) -> list[Path]:
    """Image and video files behind files, folders (searched to any depth) and glob patterns.

    Returns:
        Each file once, those of one input in natural order (`frame9` before `frame10`).

    Raises:
        FileNotFoundError: an input matches nothing; a folder holds neither images nor videos.
        MediaError: a file that is named is of a type that is not read.
    """
    known = IMAGE_SUFFIXES | VIDEO_SUFFIXES
    found: dict[Path, None] = {}
    for entry in inputs:
        matches = [Path(entry)] if Path(entry).exists() else [Path(match) for match in glob.glob(str(entry))]
        if not matches:
            raise FileNotFoundError(f"no file, folder or pattern match: '{entry}'")
        for match in matches:
            if match.is_dir():
                files = [path for path in match.rglob("*") if path.suffix.lower() in known and path.is_file()]
                if not files:
                    raise FileNotFoundError(f"no image or video in folder '{match}'")
            elif match.suffix.lower() not in known:
                raise MediaError(f"'{match}' is neither an image nor a video; known: {', '.join(sorted(known))}")
            else:
                files = [match]
            found.update(dict.fromkeys(sorted(files, key=_natural)))
    return list(found)


def load_image(path: Path) -> np.ndarray:
    """Read an image upright as (H, W, 3) uint8 BGR.

    Raises:
        MediaError: the file is broken or no image; the message names it.
    """
    try:
        return np.ascontiguousarray(read_image(str(path), format="BGR"))
    except (OSError, SyntaxError, ValueError) as error:
        raise MediaError(f"cannot read image '{path}': {error}") from error


@dataclass(frozen=True)
class VideoInfo:
    """What a video's header says: `frames` may be an estimate, `width` and `height` are in pixels."""

    frames: int
    fps: float
    width: int
    height: int


def video_info(path: Path) -> VideoInfo:
    """Read a video's header.

    Raises:
        MediaError: the file cannot be opened as a video.
    """
    capture = _open(path)
    info = VideoInfo(
        frames=max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0),
        fps=capture.get(cv2.CAP_PROP_FPS) or 25.0,
        width=int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
        height=int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
    )
    capture.release()
    return info


def read_frames(path: Path) -> Iterator[np.ndarray]:
    """Frames of a video in order, (H, W, 3) uint8 BGR each.

    Raises:
        MediaError: the file cannot be opened, or holds no frame.
    """
    capture = _open(path)
    try:
        good, frame = capture.read()
        if not good:
            raise MediaError(f"video '{path}' holds no readable frame")
        while good:
            yield frame
            good, frame = capture.read()
    finally:
        capture.release()


def _open(path: Path) -> cv2.VideoCapture:
    capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        raise MediaError(f"cannot open video '{path}'")
    return capture
