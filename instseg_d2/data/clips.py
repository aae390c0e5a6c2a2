"""Videos to go through frame by frame: a file, or the images of a folder."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .media import MediaError, is_video, load_image, read_frames, video_info


@dataclass(frozen=True)
class Clip:
    """A video.

    Attributes:
        path: the video file, or the folder of the images.
        images: the frames in their order; empty for a video file.
    """

    path: Path
    images: tuple[Path, ...] = ()

    @property
    def name(self) -> str:
        """The file without its suffix, or the folder."""
        return self.path.name if self.images else self.path.stem

    @property
    def length(self) -> int:
        """Number of frames; of a video file what its header says, which may be an estimate, or 0 if it is not known.

        Raises:
            MediaError: the file cannot be opened as a video.
        """
        return len(self.images) if self.images else video_info(self.path).frames

    def fps(self, of_images: float) -> float:
        """Frames per second, for a folder of images those that are given here.

        Raises:
            MediaError: the file cannot be opened as a video.
        """
        return of_images if self.images else video_info(self.path).fps

    def file_name(self, frame: int) -> str:
        """What to call a frame, counted from 0 on: the image, or `clip.mp4/000000` and on."""
        return str(self.images[frame]) if self.images else f"{self.path}/{frame:06d}"

    def frames(self) -> Iterator[np.ndarray]:
        """The frames in their order, (H, W, 3) uint8 BGR each, one at a time in memory.

        Raises:
            MediaError: nothing can be read, an image is broken, or a frame has another size than the first one.
        """
        size = None
        for number, frame in enumerate(map(load_image, self.images) if self.images else read_frames(self.path)):
            size = size or frame.shape[:2]
            if frame.shape[:2] != size:
                (height, width), (first_height, first_width) = frame.shape[:2], size
                raise MediaError(
                    f"frame {number} of video '{self.path}' is {width} x {height} px, and its first frame is "
                    f"{first_width} x {first_height}: split the video there, or resize its frames"
                )
            yield frame


def find_clips(paths: Iterable[Path], *, join_images: bool = False) -> list[Clip]:
    """The videos among files.

    Args:
        paths: of images and videos, see `find_media`.
        join_images: the images of a folder are the frames of a video, in the order of `paths`; otherwise images are
            left out.
    """
    found: dict[Path, list[Path]] = {}
    for path in paths:
        if is_video(path):
            found[path] = []
        elif join_images:
            found.setdefault(path.parent, []).append(path)
    return [Clip(path, tuple(images)) for path, images in found.items()]
