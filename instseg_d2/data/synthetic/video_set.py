"""OccVideo as a folder: videos in the layouts of public data sets, with statistics and a picture of what they show."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..errors import DatasetError
from .film_strip import film_strip, stack_strips
from .folders import check_target, encode_png, run_all, whole_folder
from .layouts import category_records
from .video import Video, occvideo, occvideo_plan
from .video_formats import (
    VOI_FILE,
    YTVIS_FILE,
    shown,
    video_name,
    write_flow,
    write_layers,
    write_mots,
    write_voi,
    write_ytvis,
)

# Raised whenever the same seed gives other pictures or other truth than before.
VIDEO_GENERATOR_VERSION = "1"

VIDEO_LAYOUTS = ("ytvis", "mots", "voi")
MANIFEST_FILE = "occvideo.json"
FILM_STRIP_FILE = "film_strip.png"
_STRIP_VIDEOS = 3


@dataclass(frozen=True)
class VideoStatistics:
    """How much happens in a set of videos.

    Attributes:
        videos: number of videos.
        frames: number of frames of all videos.
        tracks: objects that are annotated in at least one frame.
        instances: annotations of single frames.
        covered_20: share of instances whose amodal area is hidden to 20 % or more.
        covered_50: the same for 50 % or more.
        vanish_and_return: tracks that others hide (so far that they are not annotated) for a time, and that return.
        leave_and_return: tracks that leave the frame (so far that they could not be annotated), and that return.
    """

    videos: int
    frames: int
    tracks: int
    instances: int
    covered_20: float
    covered_50: float
    vanish_and_return: int
    leave_and_return: int

    def __str__(self) -> str:
        return (
            f"{self.videos} videos, {self.frames} frames, {self.tracks} tracks, {self.instances} instances "
            f"({self.instances / max(self.frames, 1):.1f} per frame)\n"
            f"covered by 20 % or more: {self.covered_20:.1%}; by 50 % or more: {self.covered_50:.1%}\n"
            f"tracks that are hidden altogether and return: {self.vanish_and_return}; "
            f"that leave the frame and return: {self.leave_and_return}"
        )


def _between(seen: np.ndarray) -> np.ndarray:
    """(T, N) bool: frames after the first and before the last one in which an object is seen."""
    before = np.logical_or.accumulate(seen, axis=0)
    after = np.logical_or.accumulate(seen[::-1], axis=0)[::-1]
    return before & after


def video_statistics(videos: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> VideoStatistics:
    """Statistics of videos, each given by three arrays (T, N).

    These are the hidden share, whether the object is annotated, and whether it would be if nothing hid it.
    """
    covered = np.concatenate([hidden[seen] for hidden, seen, _ in videos])
    gaps = [(_between(seen) & ~seen, inside) for _, seen, inside in videos]
    return VideoStatistics(
        videos=len(videos),
        frames=sum(len(seen) for _, seen, _ in videos),
        tracks=sum(int(seen.any(axis=0).sum()) for _, seen, _ in videos),
        instances=len(covered),
        covered_20=float((covered >= 0.2).sum() / max(len(covered), 1)),
        covered_50=float((covered >= 0.5).sum() / max(len(covered), 1)),
        vanish_and_return=sum(int((gap & inside).any(axis=0).sum()) for gap, inside in gaps),
        leave_and_return=sum(int((gap & ~inside).any(axis=0).sum()) for gap, inside in gaps),
    )


def presence(video: Video) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What `video_statistics` asks of a video: three arrays (T, N)."""
    return video.covered, shown(video), shown(video, amodal=True)


def _write_one(index: int, *, seed: int, frames: int, size, folder: str, layouts, flow: bool, layers: bool):
    """Draw and write one video; its manifest entry, the records of its layouts and its presence."""
    video = occvideo(seed, index, frames=frames, size=size)
    name, out = video_name(index), Path(folder)
    encoded = [encode_png(image) for image in video.images]
    records = {}
    if "ytvis" in layouts:
        records["ytvis"] = write_ytvis(out / "ytvis", index, video, encoded)
    if "mots" in layouts:
        write_mots(out / "mots", index, video, encoded)
    if "voi" in layouts:
        records["voi"] = write_voi(out / "voi", index, video, encoded, flow)
    if flow:
        write_flow(out / "flow" / name, video)
    if layers:
        write_layers(out / "layers" / name, video)
    entry = {
        "id": index + 1,
        "name": name,
        "objects": [int(identity) for identity in video.ids],
        "noise": video.plan.noise,
        "noise_seed": video.plan.noise_seed,
    }
    return entry, records, presence(video)


def _write_indices(folder: Path, info: dict, written: list[tuple[dict, dict, tuple]], layouts: Sequence[str]) -> None:
    """Write the json files that span all videos."""
    head = {"info": info, "categories": category_records()}
    if "ytvis" in layouts:
        content = {
            **head,
            "licenses": [],
            "videos": [records["ytvis"][0] for _, records, _ in written],
            "annotations": [annotation for _, records, _ in written for annotation in records["ytvis"][1]],
        }
        (folder / "ytvis" / YTVIS_FILE).write_text(json.dumps(content))
    if "voi" in layouts:
        tracks = [track for _, records, _ in written for track in records["voi"]]
        (folder / "voi" / VOI_FILE).write_text(json.dumps({**head, "tracks": tracks}))
    # Objects are listed nearest first: the order in which their layers lie above each other.
    (folder / MANIFEST_FILE).write_text(json.dumps({**head, "videos": [entry for entry, _, _ in written]}))


def _write_film_strip(path: Path, videos: Sequence[Video]) -> None:
    strips = [film_strip(video, caption=f"{video_name(number)}:") for number, video in enumerate(videos)]
    path.write_bytes(encode_png(stack_strips(strips)))


def write_occvideo(
    out: str | os.PathLike,
    *,
    videos: int = 20,
    frames: int = 24,
    seed: int = 0,
    size: int | tuple[int, int] = 128,
    layouts: Sequence[str] = ("ytvis",),
    flow: bool = False,
    layers: bool = False,
    workers: int = 0,
    overwrite: bool = False,
    film_strip: bool = False,
    progress: bool = True,
) -> VideoStatistics:
    """Generate a set of videos; the files are described in `video_formats`.

    `out/occvideo.json` lists the videos with their objects, nearest first. Each layout, flow and layers have a folder
    of their own. The set appears under its name when it is complete; an interrupted run leaves nothing.

    Args:
        out: folder to write; must be absent or empty, unless `overwrite`.
        videos: number of videos. Video k depends on (seed, k, frames, size) alone.
        frames: number of frames of each video, 2 or more.
        seed: of the set, 0 or more.
        size: height and width in pixels, one number for both; 32 or more each.
        layouts: one or more of "ytvis" (YouTube-VIS), "mots" (BDD100K) and "voi" (YouTube-VOI).
        flow: also write exact optical flow (.flo), and that of the clean frames of every YouTube-VOI track.
        layers: also write the clean background and every object's complete appearance (PNG with alpha).
        workers: processes; 0 or 1 works in this one.
        overwrite: replace a folder that this function wrote.
        film_strip: also write `out/film_strip.png`, the first videos as a picture.
        progress: show a progress bar on stderr.

    Raises:
        DatasetError: `out` is in the way, or an argument is out of range.
    """
    layouts = tuple(layouts)
    if videos < 1 or not layouts or not set(layouts) <= set(VIDEO_LAYOUTS):
        raise DatasetError(
            f"videos must be 1 or more, and layouts some of {', '.join(VIDEO_LAYOUTS)}; got videos={videos}, "
            f"layouts={', '.join(layouts) or 'none'}"
        )
    plan = occvideo_plan(seed, 0, frames=frames, size=size)
    out = Path(out)
    check_target(out, overwrite, marker=MANIFEST_FILE, generator="occvideo")
    info = {
        "description": "OccVideo: generated videos of objects that pass behind one another, with exact truth",
        "generator": "occvideo",
        "version": VIDEO_GENERATOR_VERSION,
        "seed": seed,
        "frames": frames,
        "height": plan.height,
        "width": plan.width,
    }
    options = {"seed": seed, "frames": frames, "size": size, "layouts": layouts, "flow": flow, "layers": layers}
    with whole_folder(out) as fresh:
        work = run_all(partial(_write_one, folder=str(fresh), **options), videos, workers)
        written = list(tqdm(work, total=videos, desc="OccVideo", unit="video", disable=not progress))
        _write_indices(fresh, info, written, layouts)
        if film_strip:
            first = [occvideo(seed, index, frames=frames, size=size) for index in range(min(videos, _STRIP_VIDEOS))]
            _write_film_strip(fresh / FILM_STRIP_FILE, first)
    return video_statistics([numbers for _, _, numbers in written])
