"""Tracks out of the files of public video data sets: YouTube-VIS json, and palette PNGs of DAVIS and YouTube-VOS."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from ..datasets.youtube_vis import read_youtube_vis
from ..errors import DatasetError
from ..media import IMAGE_SUFFIXES
from ..run_lengths import encode_mask
from .tracks import Track

# Indices of a palette PNG from here on are no objects but pixels to ignore.
_VOID = 254


@dataclass(frozen=True)
class YouTubeVIS:
    """A json of the YouTube-VIS form; OccVideo's is one too.

    Attributes:
        name: of the data set.
        json_file: the tracks; the `id` of an annotation is the identity of the object.
        images: the folder that `file_names` are relative to.
    """

    name: str
    json_file: Path
    images: Path

    def read(self) -> list[Track]:
        """All tracks that are no crowd.

        Raises:
            DatasetError: the file or the first frame is missing or broken.
        """
        records, categories = read_youtube_vis(self.json_file, self.images)
        videos: dict[str, list[dict[str, Any]]] = {}
        for record in records:
            videos.setdefault(record["video_name"], []).append(record)
        tracks = []
        for video, frames in tqdm(videos.items(), desc="reading", unit="video", disable=None):
            _check_one_video(video, frames, self.json_file)
            masks: dict[int, list[Any]] = {}
            classes: dict[int, int] = {}
            for number, frame in enumerate(frames):
                for one in frame.get("annotations", ()):
                    if not one["iscrowd"]:
                        masks.setdefault(one["id"], [None] * len(frames))[number] = one["segmentation"]
                        classes[one["id"]] = one["category_id"]
            files = tuple(Path(frame["file_name"]) for frame in frames)
            size = frames[0]["height"], frames[0]["width"]
            tracks += [
                Track(self.name, video, one, categories.names[classes[one]], files, tuple(masks[one]), size)
                for one in sorted(masks)
            ]
        return tracks


def _check_one_video(name: str, frames: list[dict[str, Any]], json_file: Path) -> None:
    videos = sorted({frame["video_id"] for frame in frames})
    if len(videos) > 1:
        raise DatasetError(
            f"{json_file}: videos {' and '.join(map(str, videos))} are both called '{name}'; give each a 'name' of its "
            "own, or frames in a folder of its own"
        )
    stems = [Path(frame["file_name"]).stem for frame in frames]
    if len(set(stems)) < len(stems):
        raise DatasetError(f"{json_file}: video '{name}' has frames of one name; masks are called as their frames are")


@dataclass(frozen=True)
class PaletteMasks:
    """A folder as DAVIS and YouTube-VOS have it: `Annotations/<video>/*.png` and `JPEGImages/<video>/*`.

    A mask's pixel is the number of the object, 0 for the background, 254 and 255 for what is to be ignored. Both
    folders may have one folder in between, like DAVIS's `480p`. Of YouTube-VOS, `meta.json` names the categories; DAVIS
    has none. Frames without a mask are left out.

    Attributes:
        name: of the data set.
        root: the folder.
    """

    name: str
    root: Path

    @property
    def images(self) -> Path:
        """The folder of the videos' frames."""
        return _of_videos(self.root / "JPEGImages")

    def read(self) -> list[Track]:
        """All tracks.

        Raises:
            DatasetError: a folder or frame is missing, a mask is no palette PNG or has another size than its frame.
        """
        masks, images = _of_videos(self.root / "Annotations"), self.images
        categories = _categories(self.root / "meta.json")
        videos = sorted(folder for folder in masks.iterdir() if folder.is_dir())
        tracks = []
        for folder in tqdm(videos, desc="reading", unit="video", disable=None):
            tracks += self._read_video(folder, images / folder.name, categories.get(folder.name, {}))
        return tracks

    def _read_video(self, masks: Path, images: Path, categories: dict[int, str]) -> list[Track]:
        paths = sorted(masks.glob("*.png"))
        if not paths:
            return []
        files = frames_of(images, [path.stem for path in paths], masks)
        found: dict[int, list[Any]] = {}
        size = None
        for number, (path, file) in enumerate(zip(paths, files, strict=True)):
            indices = read_palette(path)
            size = size or indices.shape
            _check_size(path, indices.shape, file)
            if indices.shape != size:
                raise DatasetError(f"{path} is {_pixels(indices.shape)}, those before it {_pixels(size)}")
            for one in np.unique(indices[(indices > 0) & (indices < _VOID)]).tolist():
                found.setdefault(one, [None] * len(paths))[number] = encode_mask(indices == one)
        return [
            Track(self.name, masks.name, one, categories.get(one), tuple(files), tuple(found[one]), size)
            for one in sorted(found)
        ]


Source = YouTubeVIS | PaletteMasks


def _of_videos(folder: Path) -> Path:
    """The folder itself, or the one in it that is between it and the videos."""
    if not folder.is_dir():
        raise DatasetError(f"no folder {folder}; palette masks need Annotations/<video>/ and JPEGImages/<video>/")
    inside = [path for path in folder.iterdir() if path.is_dir()]
    if len(inside) == 1 and not any(path.is_file() for path in inside[0].iterdir()):
        return inside[0]
    return folder


def _categories(path: Path) -> dict[str, dict[int, str]]:
    """Names of categories by video and object, of YouTube-VOS's `meta.json`; nothing where there is none."""
    if not path.exists():
        return {}
    try:
        videos = json.loads(path.read_text(encoding="utf-8"))["videos"]
        return {
            video: {int(number): one["category"] for number, one in content["objects"].items()}
            for video, content in videos.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"{path} is not of YouTube-VOS's form: {type(error).__name__}: {error}") from None


def frames_of(folder: Path, stems: list[str], masks: Path) -> list[Path]:
    """The images of a folder that are called as masks are, in their order.

    Raises:
        DatasetError: there is no such folder, or a mask has no image.
    """
    if not folder.is_dir():
        raise DatasetError(f"no folder {folder} with the frames of the masks in {masks}")
    found = {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES}
    lost = [stem for stem in stems if stem not in found]
    if lost:
        raise DatasetError(
            f"{len(lost)} of {len(stems)} masks in {masks} have no frame of the same name in {folder}, which has "
            f"{len(found)}; the first is {lost[0]}"
        )
    return [found[stem] for stem in stems]


def read_palette(path: Path) -> np.ndarray:
    """(H, W) uint8, the indices of a palette or grey PNG.

    Raises:
        DatasetError: it cannot be read, or has colours, which do not say which object they mean.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in ("P", "L"):
                raise DatasetError(f"{path} is no palette PNG but has colours ({image.mode}); save it with a palette")
            return np.array(image)
    except OSError as error:
        raise DatasetError(f"cannot read mask {path}: {error}") from None


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of an image by its header.

    Raises:
        DatasetError: it cannot be read.
    """
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except OSError as error:
        raise DatasetError(f"cannot read frame {path}: {error}") from None


def _pixels(size: tuple[int, ...]) -> str:
    return f"{size[1]} x {size[0]} px"


def _check_size(mask: Path, size: tuple[int, ...], image: Path) -> None:
    frame = image_size(image)
    if frame != size:
        raise DatasetError(
            f"mask {mask} is {_pixels(size)}, its frame {image} {_pixels(frame)}; resize it by nearest neighbour"
        )


def source_of(path: str | os.PathLike, images: str | os.PathLike | None = None, name: str | None = None) -> Source:
    """Where tracks come from: a YouTube-VIS json with its image folder, or a folder with palette masks.

    Args:
        path: the json, or the folder.
        images: the image folder of a json.
        name: of the data set, part of what chance depends on; by default that of the file or folder.

    Raises:
        DatasetError: it is neither.
    """
    path = Path(path)
    if path.is_dir():
        return PaletteMasks(name or path.resolve().name, path)
    if not path.is_file():
        raise DatasetError(f"no file or folder {path}; give a YouTube-VIS json, or a folder with Annotations/")
    if images is None or not Path(images).is_dir():
        raise DatasetError(f"no image folder '{images}'" if images else f"give the image folder of {path}")
    return YouTubeVIS(name or path.stem, path, Path(images))
