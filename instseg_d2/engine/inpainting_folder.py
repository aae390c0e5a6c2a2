"""The folder of a completed object: frames as PNGs, a record of what is finished, videos, and intermediate results."""

import json
import os
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from instseg_d2.data.clips import Clip
from instseg_d2.data.media import load_image, video_info
from instseg_d2.files import write_whole
from instseg_d2.inpainting.clips import from_bytes
from instseg_d2.inpainting.flow.backends import write_flow
from instseg_d2.inpainting.pipeline import CompletedFrame
from instseg_d2.inpainting.samples import Completion
from instseg_d2.visualization.inpainting import draw_origins
from instseg_d2.visualization.sheet import side_by_side, tile

from .overrides import SettingError
from .video_files import AnnotatedVideo

SCENE, OBJECT, MASKS = "scene", "object", "masks"
STRIP_FILE = "strip.png"
_SETTINGS_FILE, _RECORD_FILE = "run.json", "frames.jsonl"
_GREY = 128
_STRIP_ROWS = 6
_WHITE, _RED = (255, 255, 255), (0, 0, 255)


class InpaintingFolder:
    """Takes completed frames; each of its files is whole or not there.

    `scene/` has the frames with the object in front, `object/` the object alone (BGRA), `masks/` its complete masks
    (0 and 255). `frames.jsonl` has a line for each finished frame, `run.json` the settings.

    Args:
        path: of the folder.
        clip: the video; frames are called as its images are, or, of a video file and of images with equal names, by
            numbers.
        settings: all that results depend on; what json can hold.
        resume: go on in a folder that a run with equal settings left.
        intermediate: also write flows, where colours come from, and a picture of each frame, into `intermediate/`.

    Raises:
        OSError: the folder cannot be written to.
        SettingError: the folder has finished frames, and is not to be resumed or they come from other settings.

    Attributes:
        path: of the folder.
        settings: as given.
        continues: whether what lies there comes from a run with these settings, and is to be used.
    """

    def __init__(
        self, path: Path, clip: Clip, settings: Mapping[str, Any], *, resume: bool, intermediate: bool
    ) -> None:
        self.path = path
        stems = [image.stem for image in clip.images]
        self._stems = stems if len(set(stems)) == len(stems) else []
        self._intermediate = path / "intermediate" if intermediate else None
        # As json gives them back: tuples are lists there.
        self.settings = json.loads(json.dumps(dict(settings)))
        self._counts = self._read_record()
        before = self._earlier_settings()
        self.continues = resume and before == self.settings
        if self._counts and not self.continues:
            raise SettingError(self._why_not(resume, before or {}))
        for folder in (SCENE, OBJECT, MASKS):
            (path / folder).mkdir(parents=True, exist_ok=True)
        write_whole(path / _SETTINGS_FILE, json.dumps({"settings": self.settings}, indent=1))

    def _earlier_settings(self) -> dict[str, Any] | None:
        try:
            return json.loads((self.path / _SETTINGS_FILE).read_text(encoding="utf-8"))["settings"]
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _why_not(self, resume: bool, before: Mapping[str, Any]) -> str:
        if not resume:
            return f"'{self.path}' has an earlier run; continue it with --resume, or name another folder"
        changed = [key for key in self.settings if before.get(key) != self.settings[key]]
        told = "; ".join(f"{key} was {before.get(key)!r} and is {self.settings[key]!r}" for key in changed)
        return f"'{self.path}' cannot be continued with other settings: {told}; name another folder"

    def _read_record(self) -> dict[int, dict[str, int]]:
        """Counts of the finished frames; a line that broke off does not count."""
        found = {}
        file = self.path / _RECORD_FILE
        for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
            try:
                one = json.loads(line)
                found[int(one.pop("frame"))] = one
            except (ValueError, KeyError, AttributeError):
                continue
        return {index: one for index, one in found.items() if self._is_there(index)}

    def _is_there(self, index: int) -> bool:
        return all(self.file(folder, index).is_file() for folder in (SCENE, OBJECT, MASKS))

    def _name(self, index: int) -> str:
        return self._stems[index] if index < len(self._stems) else f"{index:06d}"

    def file(self, folder: str, index: int) -> Path:
        """The image of a frame in one of the folders."""
        return self.path / folder / f"{self._name(index)}.png"

    def is_finished(self, index: int) -> bool:
        """Whether a frame is written and recorded."""
        return index in self._counts

    def __len__(self) -> int:
        """Number of finished frames."""
        return len(self._counts)

    def add(self, done: CompletedFrame) -> None:
        """Write a frame.

        Raises:
            OSError: the disk is full; the frames before are whole.
        """
        _write_image(self.file(SCENE, done.index), done.image)
        _write_image(self.file(OBJECT, done.index), done.object_alone())
        _write_image(self.file(MASKS, done.index), done.complete.astype(np.uint8) * 255)
        if self._intermediate is not None:
            self._write_intermediate(done)
        counts = done.counts()
        # A line that breaks off on a full disk must not swallow the one that a resumed run adds.
        with (self.path / _RECORD_FILE).open("a", encoding="utf-8") as file:
            file.write("\n" + json.dumps({"frame": done.index, **counts}))
        self._counts[done.index] = counts

    def _write_intermediate(self, done: CompletedFrame) -> None:
        name = self._name(done.index)
        origins = draw_origins(_as_completion(done), 0)
        panel = [_outlined(done), origins, done.image, _on_grey(done.object_alone())]
        captions = ["visible white, complete red", "where colours come from", "object in front", "object alone"]
        for folder, image in (("origins", origins), ("panels", side_by_side(panel, captions))):
            (self._intermediate / folder).mkdir(parents=True, exist_ok=True)
            _write_image(self._intermediate / folder / f"{name}.png", image)
        for kind, flow in done.flows.items():
            # As `--flow-backend precomputed:` reads it: a folder with `forward` and `backward`.
            folder = self._intermediate / ("completed_flow" if "completed" in kind else "flow") / kind.split("_")[-1]
            folder.mkdir(parents=True, exist_ok=True)
            write_flow(folder / f"{name}.flo", flow)

    def totals(self) -> dict[str, int]:
        """Pixels of all finished frames together; see `CompletedFrame.counts`."""
        names = next(iter(self._counts.values()), {})
        return {name: sum(counts[name] for counts in self._counts.values()) for name in names}

    def write_videos(self, fps: float) -> list[Path]:
        """Make `scene.mp4` and `object.mp4` (on grey) of the finished frames in order.

        Raises:
            OSError: a video cannot be written, or not as a whole.
        """
        indices = sorted(self._counts)
        written = []
        for folder, prepare in ((SCENE, lambda image: image[..., :3]), (OBJECT, _on_grey)):
            path = self.path / f"{folder}.mp4"
            partial = path.with_suffix(".partial.mp4")
            with closing(AnnotatedVideo(partial, fps)) as video:
                for index in indices:
                    video.write(np.ascontiguousarray(prepare(_read_image(self.file(folder, index)))))
            if indices:
                if not partial.is_file() or video_info(partial).frames != len(indices):
                    raise OSError(f"cannot write video {path}: is the disk full? The frames are whole")
                os.replace(partial, path)
                written.append(path)
        return written

    def write_strip(self) -> Path | None:
        """Stack the intermediate pictures of some frames at equal steps; None without such pictures."""
        indices = sorted(self._counts)
        if self._intermediate is None or not indices:
            return None
        times = np.unique(np.linspace(0, len(indices) - 1, min(_STRIP_ROWS, len(indices))).round().astype(int))
        files = [self._intermediate / "panels" / f"{self._name(indices[time])}.png" for time in times]
        panels = [load_image(file) for file in files if file.is_file()]
        if not panels:
            return None
        _write_image(self.path / STRIP_FILE, tile(panels, columns=1))
        return self.path / STRIP_FILE

    def write_summary(self, facts: Mapping[str, Any]) -> None:
        """Add what the run came to, to `run.json`."""
        content = {"settings": self.settings, "frames": len(self), "pixels": self.totals(), **facts}
        write_whole(self.path / _SETTINGS_FILE, json.dumps(content, indent=1))


def _write_image(path: Path, image: np.ndarray) -> None:
    write_whole(path, cv2.imencode(".png", image)[1].tobytes())


def _read_image(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise OSError(f"cannot read {path}, which this run wrote: delete it and run again with --resume")
    return image


def _on_grey(object_alone: np.ndarray) -> np.ndarray:
    """The object (H, W, 4) BGRA, alpha 0 or 255, before grey."""
    return np.where(object_alone[..., 3:] > 0, object_alone[..., :3], np.uint8(_GREY))


def _outlined(done: CompletedFrame) -> np.ndarray:
    picture = done.observed.copy()
    for mask, colour in ((done.complete, _RED), (done.visible, _WHITE)):
        contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, contours, -1, colour, 1)
    return picture


def _as_completion(done: CompletedFrame) -> Completion:
    """A frame as a clip of one frame."""
    names = ("visible", "complete", "from_past", "from_future", "painted", "left")
    masks = {name: torch.from_numpy(getattr(done, name))[None, None, None].float() for name in names}
    pixels = torch.from_numpy(np.ascontiguousarray(done.image[..., ::-1])).permute(2, 0, 1)
    return Completion(frames=from_bytes(pixels)[None, None], **masks)
