"""The two files of YouTube-VIS, truth and results, read and checked for an evaluation."""

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from instseg_d2.data import DatasetError
from instseg_d2.data.datasets import read_coco_json
from instseg_d2.data.datasets.coco import raise_fatal
from instseg_d2.data.datasets.video_validation import validate_videos
from instseg_d2.data.run_lengths import run_lengths

from .video_selection import EVERYTHING, VideoSelection, video_names

Track = dict[str, Any]


@dataclass(frozen=True)
class TrackTruth:
    """Annotated tracks of the frames that are evaluated.

    Attributes:
        categories: names by id, in the order of ids.
        videos: those that are evaluated, by id.
        frames: which frames are evaluated, by video id; as many entries have `segmentations` and `areas` of a track.
        tracks: annotations, with masks as compressed run lengths.
        left_out: ids of the other videos.
        video_ids: of all videos, by each of their names.
        has_annotations: whether the file has any; the sets that a server evaluates have none.
    """

    categories: dict[int, str]
    videos: dict[int, Mapping[str, Any]]
    frames: dict[int, range]
    tracks: list[Track]
    left_out: frozenset[int]
    video_ids: dict[str, int]
    has_annotations: bool


def read_truth(truth: str | os.PathLike | Mapping[str, Any], selection: VideoSelection = EVERYTHING) -> TrackTruth:
    """Read the annotations of a data set.

    Args:
        truth: the file, or its content.
        selection: what of it. Tracks without a mask there are left out.

    Raises:
        DatasetError: the file is not what it must be, or `selection` takes nothing of it.
    """
    name = "the truth" if isinstance(truth, Mapping) else os.fspath(truth)
    content = truth if isinstance(truth, Mapping) else read_coco_json(truth)
    raise_fatal(validate_videos(content), name)
    selection.check(map(video_names, content["videos"]))
    videos = {video["id"]: video for video in content["videos"] if selection.takes(video_names(video))}
    frames = {key: selection.frames(len(video["file_names"])) for key, video in videos.items()}
    if not any(frames.values()):
        raise DatasetError(f"{name}: no frame lies in the part {tuple(selection.part)} of {len(videos)} videos")
    kept = {key for key, some in frames.items() if some}
    annotations = content.get("annotations")
    tracks = [
        _cut(one, videos, frames, f"annotation {one['id']}") for one in annotations or () if one["video_id"] in kept
    ]
    return TrackTruth(
        categories={one["id"]: one["name"] for one in sorted(content["categories"], key=lambda one: one["id"])},
        videos={key: videos[key] for key in kept},
        frames={key: frames[key] for key in kept},
        tracks=[track for track in tracks if any(track["segmentations"])],
        left_out=frozenset(video["id"] for video in content["videos"]) - kept,
        video_ids={name: video["id"] for video in content["videos"] for name in _own_names(video)},
        has_annotations=annotations is not None,
    )


def read_results(results: str | os.PathLike | list[Track], truth: TrackTruth) -> list[Track]:
    """Read detected tracks, those of the frames that are evaluated.

    Args:
        results: the file, or its content; of a data set, whose annotations have scores, these. Its videos and
            categories are those of the same names in the truth, where there are any, whatever their numbers.
        truth: of the same videos.

    Raises:
        DatasetError: the file is not what it must be, or does not fit the truth.
    """
    name = "the results" if isinstance(results, list) else os.fspath(results)
    content = results if isinstance(results, list) else read_coco_json(results)
    if isinstance(content, dict) and "annotations" in content:
        content = _numbered_as(truth, content)
    if not isinstance(content, list):
        raise DatasetError(f"{name}: a results file is a list of tracks, not {type(content).__name__}")
    tracks = []
    for position, entry in enumerate(content):
        where = f"{name}: track {position}"
        wrong = next(_wrong(entry, truth), None)
        if wrong:
            raise DatasetError(f"{where}: {wrong}")
        if entry["video_id"] not in truth.videos:
            continue
        track = _cut(entry, truth.videos, truth.frames, where)
        # One that has masks in other frames only is not false in these.
        if any(track["segmentations"]) or not any(entry["segmentations"]):
            tracks.append(track)
    return tracks


def _own_names(video: Mapping[str, Any]) -> list[str]:
    """Names of a video, without its id."""
    return [name for name in video_names(video)[1:] if isinstance(name, str)]


def _numbered_as(truth: TrackTruth, content: Mapping[str, Any]) -> list[Track]:
    """The annotations of a data set with the ids that its videos and categories have in the truth.

    What the truth has no name for keeps its number. What is no list of records is left to be complained of.
    """
    annotations = content["annotations"]
    if not isinstance(annotations, list) or not all(isinstance(one, dict) for one in annotations):
        return annotations
    videos = {
        video["id"]: truth.video_ids[name]
        for video in content.get("videos") or ()
        for name in _own_names(video)
        if name in truth.video_ids
    }
    known = {name: key for key, name in truth.categories.items()}
    categories = {one["id"]: known[one["name"]] for one in content.get("categories") or () if one.get("name") in known}
    renumbered = {"video_id": videos, "category_id": categories}
    return [
        one | {key: ids.get(one[key], one[key]) for key, ids in renumbered.items() if key in one} for one in annotations
    ]


def _wrong(entry: Any, truth: TrackTruth) -> Iterator[str]:
    """What keeps an entry of a results file from being evaluated."""
    if not isinstance(entry, dict):
        yield f"{type(entry).__name__} instead of an object"
        return
    missing = [key for key in ("video_id", "category_id", "score", "segmentations") if key not in entry]
    if missing:
        yield f"no {', '.join(map(repr, missing))}"
        return
    score, masks, video = entry["score"], entry["segmentations"], entry["video_id"]
    if not isinstance(score, int | float) or not math.isfinite(score):
        yield f"'score' is {score!r}, which is no number to sort by"
    if entry["category_id"] not in truth.categories:
        known = ", ".join(map(str, list(truth.categories)[:8]))
        yield f"category_id {entry['category_id']!r} is none of the truth's: {known}, ..."
    if video not in truth.videos and video not in truth.left_out:
        yield f"video_id {video!r} is none of the truth's: {', '.join(map(str, sorted(truth.videos)[:8]))}, ..."
    elif video in truth.videos:
        length = len(truth.videos[video]["file_names"])
        if not isinstance(masks, list) or len(masks) != length:
            found = len(masks) if isinstance(masks, list) else "no list of"
            yield f"{found} 'segmentations', but video {video} has {length} frames: one each, null where there is none"


def _cut(entry: Track, videos: Mapping[int, Any], frames: Mapping[int, range], where: str) -> Track:
    """A track in the frames that are evaluated, with masks as compressed run lengths."""
    video, chosen = videos[entry["video_id"]], frames[entry["video_id"]]
    size = video["height"], video["width"]
    masks = entry["segmentations"]
    cut = {**entry, "segmentations": [_mask(masks[frame], size, where, frame) for frame in chosen]}
    if entry.get("areas"):
        cut["areas"] = [entry["areas"][frame] for frame in chosen]
    return cut


def _mask(mask: Any, size: tuple[int, int], where: str, frame: int) -> dict | None:
    if not mask:
        return None
    try:
        return run_lengths(mask, *size)
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{where}, frame {frame}: no mask that can be read: {error}") from None
