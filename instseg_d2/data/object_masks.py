"""The masks of one object through a video: a video or folder of masks, palette PNGs, or tracks in a json."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image
from pycocotools import mask as mask_util

from .clips import Clip, find_clips
from .datasets.coco import raise_fatal, read_coco_json
from .datasets.video_validation import validate_videos
from .errors import DatasetError
from .media import IMAGE_SUFFIXES, MediaError, find_media, is_video, read_frames
from .run_lengths import decode_mask, run_lengths

KINDS = ("visible", "complete", "others", "any")
# Numbers of a palette PNG from here on mark pixels to ignore, as in DAVIS.
_VOID = 254
# A grey image whose values all lie below numbers objects; one that reaches it is black and white.
_GREY = 128


class ObjectMasks(Protocol):
    """Masks of the frames of a video, one at a time in memory."""

    @property
    def where(self) -> str:
        """What to call them in a message."""

    def masks(self) -> Iterator[np.ndarray]:
        """(H, W) bool each, in the order of the frames; may be called again.

        Raises:
            DatasetError: a mask does not say which pixels are the object.
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
    """Images of masks: black and white, or numbers of objects as a palette or small grey values.

    Attributes:
        where: what to call them.
        files: in the order of the frames.
        object_id: number of the object; None if the images show one object alone.
        kind: see `open_masks`.
        repeats: they start over at the end: one image stands for all frames.
    """

    where: str
    files: tuple[Path, ...]
    object_id: int | None = None
    kind: str = "visible"
    repeats: bool = False

    def masks(self) -> Iterator[np.ndarray]:
        seen: set[int] = set()
        while True:
            for path in self.files:
                values, numbered = _read_values(path)
                yield self._of_numbers(path, values, seen) if numbered else self._of_light(path, values)
            if not self.repeats:
                return

    def _of_light(self, path: Path, values: np.ndarray) -> np.ndarray:
        if self.kind == "others" or (self.kind == "visible" and self.object_id is not None):
            raise DatasetError(f"{path} is black and white and does not number objects: none can be chosen by number")
        return values >= _GREY

    def _of_numbers(self, path: Path, values: np.ndarray, seen: set[int]) -> np.ndarray:
        real = (values > 0) & (values < _VOID)
        if self.kind == "any":
            return real
        if self.kind == "others":
            return real & (values != self.object_id)
        if self.object_id is not None:
            return values == self.object_id
        seen.update(np.unique(values[real]).tolist())
        if len(seen) > 1:
            raise DatasetError(
                f"{path}: up to here the masks number the objects {', '.join(map(str, sorted(seen)))}; choose one by "
                "its number (--object-id)"
            )
        return real


def _read_values(path: Path) -> tuple[np.ndarray, bool]:
    """(H, W) uint8, and whether the values number objects."""
    try:
        with Image.open(path) as image:
            mode, values = image.mode, np.array(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise MediaError(f"cannot read mask '{path}': {error}") from error
    if mode == "1":
        return values.astype(np.uint8) * 255, False
    if mode in ("RGB", "RGBA") and (values[..., :3] == values[..., :1]).all():
        mode, values = "L", values[..., 0]
    if mode not in ("P", "L"):
        raise DatasetError(
            f"mask {path} has colours or is of another depth ({mode}): save it with a palette, or in black and white"
        )
    return values, mode == "P" or int(values.max(initial=0)) < _GREY


@dataclass(frozen=True)
class TrackedObject:
    """An object in a json of the YouTube-VIS form.

    Attributes:
        number: its `id` in the file.
        category: name of its class.
        visible: T masks in any of COCO's forms; None where it is not seen.
        complete: T masks as if nothing were before it, if the file has them.
        size: height and width of the frames, pixels.
    """

    number: int
    category: str
    visible: Sequence[Any]
    complete: Sequence[Any] | None
    size: tuple[int, int]

    def area(self) -> int:
        """Visible pixels in all frames together."""
        lengths = [run_lengths(mask, *self.size) for mask in self.visible if mask]
        return int(sum(mask_util.area(one) for one in lengths))


@dataclass(frozen=True)
class TrackMasks:
    """Masks out of a json; of several tracks, what any of them covers.

    Attributes:
        where: what to call them.
        tracks: the masks of each track, T of them; None where it is not seen.
        size: height and width of the frames, pixels.
        length: T.
    """

    where: str
    tracks: tuple[Sequence[Any], ...]
    size: tuple[int, int]
    length: int

    def masks(self) -> Iterator[np.ndarray]:
        for frame in range(self.length):
            union = np.zeros(self.size, dtype=bool)
            for track in self.tracks:
                if track[frame]:
                    union |= decode_mask(track[frame], *self.size)
            yield union


@dataclass(frozen=True)
class VideoTracks:
    """The objects of a video.

    Attributes:
        objects: without crowds.
        size: height and width of the frames, pixels.
        length: T.
    """

    objects: tuple[TrackedObject, ...]
    size: tuple[int, int]
    length: int


def read_tracks(json_file: Path, clip_name: str, video: str | None = None) -> VideoTracks:
    """The objects of one video in a json of the YouTube-VIS form.

    Args:
        json_file: of any number of videos.
        clip_name: of the video whose frames are at hand; it chooses among several videos.
        video: the name of the video in the file, if it has another one.

    Raises:
        DatasetError: the file is broken, or has no such video.
    """
    content = read_coco_json(json_file)
    raise_fatal(validate_videos(content), str(json_file))
    named = {str(one.get("name") or Path(one["file_names"][0]).parent): one for one in content["videos"]}
    wanted = clip_name if video is None else video
    if wanted not in named and (video is not None or len(named) > 1):
        some = ", ".join(list(named)[:10])
        raise DatasetError(
            f"{json_file} has no video '{wanted}'; it has {some}{', ...' * (len(named) > 10)}: name one (--video)"
        )
    record = named[wanted] if wanted in named else next(iter(named.values()))
    names = {category["id"]: category["name"] for category in content["categories"]}
    size = record["height"], record["width"]
    objects = tuple(
        TrackedObject(one["id"], names[one["category_id"]], one["segmentations"], one.get("amodal_segmentations"), size)
        for one in content.get("annotations") or ()
        if one["video_id"] == record["id"] and not one.get("iscrowd")
    )
    return VideoTracks(objects, size, len(record["file_names"]))


def _of_json(path: Path, clip: Clip, object_id: int | None, video: str | None, kind: str) -> TrackMasks:
    tracks = read_tracks(path, clip.name, video)
    if kind in ("others", "any"):
        meant = [one for one in tracks.objects if kind == "any" or one.number != object_id]
        return TrackMasks(str(path), tuple(one.visible for one in meant), tracks.size, tracks.length)
    chosen = [one for one in tracks.objects if object_id is None or one.number == object_id]
    if len(chosen) != 1:
        listed = ", ".join(f"{one.number} ({one.category})" for one in tracks.objects[:20]) or "none"
        raise DatasetError(f"{path} has in this video the objects {listed}: choose one by its number (--object-id)")
    masks = chosen[0].complete if kind == "complete" and chosen[0].complete else chosen[0].visible
    return TrackMasks(str(path), (masks,), tracks.size, tracks.length)


def open_masks(
    path: str | Path,
    clip: Clip,
    *,
    object_id: int | None = None,
    video: str | None = None,
    kind: str = "visible",
    repeats: bool = False,
) -> ObjectMasks:
    """Find out of what form masks are.

    Args:
        path: a video, a folder of images, one image, or a json of the YouTube-VIS form.
        clip: the frames that they belong to.
        object_id: number of the object in palette PNGs, or `id` of the track in a json.
        video: name of the video in a json; by default that of the clip.
        kind: of `KINDS`: what is seen of the object; all of it, which a json may have as `amodal_segmentations`; all
            other objects; or whatever objects there are.
        repeats: one image may stand for all frames.

    Raises:
        DatasetError: a json has no such video or object, or a folder holds several videos' masks.
        FileNotFoundError: there is nothing.
        MediaError: it is of another type.
        ValueError: `kind` is none of these.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got '{kind}'")
    path = Path(path)
    if path.suffix.lower() == ".json":
        return _of_json(path, clip, object_id, video, kind)
    files = [file for file in find_media([path]) if not path.is_dir() or file.suffix.lower() in IMAGE_SUFFIXES]
    if len(files) == 1 and is_video(files[0]):
        if kind == "others" or (kind == "visible" and object_id is not None):
            raise DatasetError(f"{path} is a video of masks and does not number objects: none can be chosen by number")
        return MaskVideo(files[0])
    folders = find_clips(files, join_images=True)
    if len(folders) != 1:
        names = ", ".join(str(folder.path) for folder in folders[:5]) or "no image"
        raise DatasetError(f"'{path}' must hold the masks of one video, and has {names}: name one folder")
    images = folders[0].images
    return MaskImages(str(path), images, object_id, kind, repeats and len(images) == 1)
