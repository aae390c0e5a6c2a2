"""The layout of YouTube-VOI: four folders of masks for each hidden object; reading, checking and writing it.

    <set>/tracks.json                                    optional: frames, categories, splits, hashes
    <set>/tracks/<video>/<object>/full_mask/00000.png    the complete mask of the target
                                  occ_mask/              its hidden part
                                  occ_mask_full/         the complete mask of the occluder
                                  remain_mask/           its visible part
                                  occluder/              optional: BGRA, the occluder's colours
                                  clean/                 optional: frames without the occluder
                                  forward/, backward/    optional: flow of the clean frames (.flo)

The published masks have neither `tracks.json` nor `tracks/`; folders of videos are then at the top, and the frames
without an occluder come from YouTube-VOS. Where there is `clean`, frames show the occluder.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..errors import DatasetError
from ..media import load_image
from .appearance import Rendering, render
from .keys import hash_masks, split_of
from .sources import frames_of, image_size

MASKS = ("full_mask", "occ_mask", "occ_mask_full", "remain_mask")
MANIFEST_FILE = "tracks.json"
TRACK_FOLDER = "tracks"
IMAGE_FOLDER = "JPEGImages"
OCCLUDER_FOLDER = "occluder"


@dataclass(frozen=True, eq=False)
class VOITrack:
    """A hidden object in T frames; files are read when asked for.

    Attributes:
        folder: with the masks.
        video: name of the video.
        name: of the object in the video.
        stems: T file names without suffix.
        files: T images.
        category: name, None if unknown.
        category_index: from 0 on in the order of the set's categories, -1 if unknown.
        split: "train" or "evaluation".
        hashes: SHA-256 of the stacks of masks by name, see `hash_masks`; may be empty.
    """

    folder: Path
    video: str
    name: str
    stems: tuple[str, ...]
    files: tuple[Path, ...]
    category: str | None = None
    category_index: int = -1
    split: str = "train"
    hashes: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.stems)

    @cached_property
    def size(self) -> tuple[int, int]:
        """Height and width of the frames, pixels."""
        return image_size(self.files[0])

    def masks(self, frame: int) -> dict[str, np.ndarray]:
        """The four masks (H, W) bool by name.

        Raises:
            DatasetError: one is missing, broken or of another size than the frame.
        """
        return {name: self._mask(name, frame) for name in MASKS}

    def _mask(self, name: str, frame: int) -> np.ndarray:
        path = self.folder / name / f"{self.stems[frame]}.png"
        mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        if mask is None:
            raise DatasetError(f"cannot read mask {path}; restore the file, or take its track out")
        if mask.shape != self.size:
            height, width = self.size
            raise DatasetError(
                f"mask {path} is {mask.shape[1]} x {mask.shape[0]} px, the frame {self.files[frame]} "
                f"{width} x {height} px; give the frames that the masks were made for"
            )
        return mask > 127

    @property
    def _is_observed(self) -> bool:
        return (self.folder / "clean").is_dir()

    def clean(self, frame: int) -> np.ndarray:
        """(H, W, 3) uint8 BGR, the frame without the occluder."""
        return load_image(
            self.folder / "clean" / f"{self.stems[frame]}.png" if self._is_observed else self.files[frame]
        )

    def observed(self, frame: int, rendering: Rendering = "composite") -> np.ndarray:
        """(H, W, 3) uint8 BGR, the frame with the occluder, or with a hole; see `render`.

        Raises:
            DatasetError: nothing tells the colours of the occluder.
        """
        if rendering == "composite" and self._is_observed:
            return load_image(self.files[frame])
        occluder = None
        if rendering == "composite":
            path = self.folder / OCCLUDER_FOLDER / f"{self.stems[frame]}.png"
            occluder = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            if occluder is None or occluder.shape != (*self.size, 4):
                raise DatasetError(
                    f"no picture of the occluder {path}; published masks have none: show a hole instead "
                    "(rendering='hole'; of clips fills=(0, 0.5, 0.5), or AS_PUBLISHED)"
                )
        return render(self.clean(frame), hidden=self._mask("occ_mask", frame), occluder=occluder, rendering=rendering)

    def flow(self, frame: int, direction: str) -> np.ndarray | None:
        """Flow of the clean frames that starts in a frame, (H, W, 2) float32 xy pixels; None where it is not there.

        Args:
            frame: where the flow starts.
            direction: "forward", to the next frame, or "backward", to the one before.

        Raises:
            DatasetError: the file is broken, or of another size than the frame.
        """
        path = self.folder / direction / f"{self.stems[frame]}.flo"
        if not path.exists():
            return None
        flow = cv2.readOpticalFlow(str(path))
        if flow is None or flow.shape[:2] != self.size:
            raise DatasetError(f"{path} is no flow of {self.size[1]} x {self.size[0]} px")
        return flow


def read_voi(
    root: str | os.PathLike, *, images: str | os.PathLike | None = None, split: str | None = None
) -> list[VOITrack]:
    """The tracks of a set, in the order of their names.

    Args:
        root: the set, generated, or unpacked as it was published.
        images: the folder of the videos' frames; by default what `tracks.json` says, or else `JPEGImages` in the set.
        split: "train" or "evaluation"; None takes both. Without a `tracks.json` that says it, `split_of` does.

    Raises:
        DatasetError: there are no tracks, a folder or a file is missing, or folders of one track have different files.
    """
    root = Path(root)
    if not root.is_dir():
        raise DatasetError(f"no folder {root}; make a set with tools/build_voi.py")
    manifest = _read_manifest(root / MANIFEST_FILE)
    names = [category["name"] for category in manifest.get("categories", ())]
    rows = manifest["tracks"] if "tracks" in manifest else _find_tracks(root)
    default = Path(images) if images else root / manifest.get("info", {}).get("images", IMAGE_FOLDER)
    found = []
    for row in sorted(rows, key=lambda row: row["folder"]):
        if split in (None, row.get("split") or split_of(row["video"])):
            found.append(_track(root, row, default, names))
    if not found:
        raise DatasetError(f"{root} has no tracks" + (f" of the split '{split}'" if split else ""))
    return found


def _read_manifest(path: Path) -> dict[str, Any]:
    """The content of `tracks.json`, with the folder of each track; nothing where there is none."""
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        for row in content["tracks"]:
            row.setdefault("folder", f"{TRACK_FOLDER}/{row['video']}/{row['id']}")
            row.setdefault("name", str(row["id"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"{path} does not list tracks: {type(error).__name__}: {error}") from None
    return content


def _find_tracks(root: Path) -> list[dict[str, Any]]:
    """Every folder with one of the four mask folders; the first part of its path is the video."""
    top = root / TRACK_FOLDER if (root / TRACK_FOLDER).is_dir() else root
    folders = sorted({path.parent for name in MASKS for path in top.rglob(name) if path.is_dir()})
    rows = []
    for folder in folders:
        parts = folder.relative_to(top).parts
        if not parts:
            raise DatasetError(f"{top} holds masks itself; give the folder above it: <video>/<object>/{MASKS[0]}")
        name = "/".join(parts[1:]) or parts[0]
        rows.append({"folder": folder.relative_to(root).as_posix(), "video": parts[0], "name": name})
    return rows


def _track(root: Path, row: dict[str, Any], images: Path, categories: Sequence[str]) -> VOITrack:
    folder = root / row["folder"]
    stems = _stems(folder)
    files = row.get("files")
    if files and [Path(file).stem for file in files] != stems:
        raise DatasetError(
            f"{folder} has {len(stems)} masks, but {MANIFEST_FILE} lists {len(files)} frames for it, or others: make "
            "the set anew"
        )
    paths = [images / file for file in files] if files else frames_of(images / row["video"], stems, folder)
    if not paths[0].is_file():
        raise DatasetError(f"no frame {paths[0]}; say where the frames are: images=, on the command line --images")
    category = row.get("category")
    return VOITrack(
        folder=folder,
        video=row["video"],
        name=row["name"],
        stems=tuple(stems),
        files=tuple(paths),
        category=category,
        category_index=categories.index(category) if category in categories else -1,
        split=row.get("split") or split_of(row["video"]),
        hashes=tuple(sorted(row.get("sha256", {}).items())),
    )


def _stems(folder: Path) -> list[str]:
    """Names of the frames of a track, which are those of all four folders.

    Raises:
        DatasetError: a folder is missing or empty, or has other files than the first one.
    """
    stems = {name: sorted(path.stem for path in (folder / name).glob("*.png")) for name in MASKS}
    for name, found in stems.items():
        if not found:
            raise DatasetError(f"{folder / name} is missing or empty; a track needs {', '.join(MASKS)}")
        if found != stems[MASKS[0]]:
            other = sorted(set(found) ^ set(stems[MASKS[0]]))
            raise DatasetError(
                f"{folder}: {len(stems[MASKS[0]])} masks in {MASKS[0]}, {len(found)} in {name}; frame {other[0]} is in "
                "one of them alone"
            )
    return stems[MASKS[0]]


def check_track(track: VOITrack) -> list[str]:
    """What is wrong with the masks of a track, in words; empty when they add up.

    The hidden and the visible part share no pixel and make up the complete mask, what is hidden lies under the
    occluder, and the stacks have the hashes that `tracks.json` says.

    Raises:
        DatasetError: a mask cannot be read.
    """
    problems = []
    stacks = {name: [] for name in MASKS}
    for frame, stem in enumerate(track.stems):
        masks = track.masks(frame)
        for name in MASKS:
            stacks[name].append(masks[name])
        full, hidden, occluder, visible = (masks[name] for name in MASKS)
        for wrong, words in (
            (hidden & visible, "are both hidden and visible"),
            ((hidden | visible) ^ full, "of the complete mask are neither hidden nor visible, or the other way round"),
            (hidden ^ (full & occluder), "of the target under the occluder are not hidden, or the other way round"),
        ):
            if wrong.any():
                problems.append(f"{track.folder}, frame {stem}: {int(wrong.sum())} px {words}")
    for name, expected in track.hashes:
        if hash_masks(np.stack(stacks[name])) != expected:
            problems.append(f"{track.folder}: {name} has other pixels than {MANIFEST_FILE} says")
    return problems
