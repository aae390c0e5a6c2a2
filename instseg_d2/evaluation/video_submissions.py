"""What the servers of YouTube-VIS and of BDD100K's segmentation tracking take, from a video model's frames."""

import json
import os
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.structures import Instances

from instseg_d2.data.instance_maps import InstanceMap, write_bitmask
from instseg_d2.data.run_lengths import encode_mask
from instseg_d2.files import replacing, write_whole

# BDD100K looks at no more instances of one frame.
MOST_INSTANCES = 100


class TrackRecorder:
    """Collects the tracks of one video, frame by frame, as run lengths of their masks."""

    def __init__(self) -> None:
        self._masks: dict[int, dict[int, dict]] = defaultdict(dict)
        self._scores: dict[int, list[tuple[int, float]]] = defaultdict(list)

    def add(self, frame: int, instances: Instances) -> None:
        """Take what was found in a frame.

        Args:
            frame: number in the video, from 0 on.
            instances: `pred_masks` (N, H, W) bool, `scores`, `pred_classes` and `pred_ids` (N,). Those without a track
                (`pred_ids` < 1) and those without a pixel are left out.

        Raises:
            ValueError: the instances have no `pred_ids`, or two of them have one.
        """
        ids = track_ids(instances)
        masks = instances.pred_masks.cpu().numpy()
        for number in np.flatnonzero(ids > 0):
            if masks[number].any():
                track = int(ids[number])
                self._masks[track][frame] = encode_mask(masks[number])
                self._scores[track].append((int(instances.pred_classes[number]), float(instances.scores[number])))

    def results(self, video_id: int, length: int, category_ids: Mapping[int, int]) -> list[dict[str, Any]]:
        """The tracks as a results file of YouTube-VIS has them, in the order of their first frame.

        A track has the mean of its scores, and the class that it has in most frames; of several the one with the
        higher sum of scores.

        Args:
            video_id: of the data set.
            length: number of frames of the video.
            category_ids: of the data set, by class index.

        Raises:
            ValueError: a frame lies behind the end of the video.
        """
        last = max((frame for masks in self._masks.values() for frame in masks), default=0)
        if last >= length:
            raise ValueError(f"video {video_id} has {length} frames, but there are masks in frame {last}")
        return [
            {
                "video_id": video_id,
                "category_id": category_ids[_majority(self._scores[track])],
                "score": float(np.mean([score for _, score in self._scores[track]])),
                "segmentations": [masks.get(frame) for frame in range(length)],
            }
            for track, masks in self._masks.items()
        ]


def _majority(votes: list[tuple[int, float]]) -> int:
    counts, sums = Counter(category for category, _ in votes), Counter()
    for category, score in votes:
        sums[category] += score
    return max(counts, key=lambda category: (counts[category], sums[category], -category))


def track_ids(instances: Instances) -> np.ndarray:
    """(N,) int64: `pred_ids` of one frame.

    Raises:
        ValueError: there are none, or two instances have the same one above 0.
    """
    if not instances.has("pred_ids"):
        raise ValueError("the instances have no pred_ids: evaluate a model that tracks, or evaluate images one by one")
    ids = instances.pred_ids.cpu().numpy()
    tracks, counts = np.unique(ids[ids > 0], return_counts=True)
    if (counts > 1).any():
        raise ValueError(f"pred_ids: {tracks[counts > 1].tolist()} occur more than once in one frame")
    return ids


def write_youtube_vis(results: Iterable[Mapping[str, Any]], folder: str | os.PathLike) -> Path:
    """Write `results.json`, and `results.zip` with that file alone, which the server takes.

    Returns:
        The zip file.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "results.json", json.dumps(list(results)))
    return _zip(folder / "results.zip", [(folder / "results.json", "results.json")])


def mots_frame_name(video: str, frame: int, suffix: str) -> str:
    """BDD100K's name of a frame: `video-0000001.png` for the first one, number 0."""
    return f"{video}-{frame + 1:07d}{suffix}"


def write_mots_bitmask(folder: str | os.PathLike, video: str, frame: int, instances: InstanceMap) -> Path:
    """Write `folder/video/video-0000001.png` for frame 0; a frame without instances gets zeros, and has to be there.

    Raises:
        OSError: it cannot be written; the error names the file.
        ValueError: an identity is not from 1 to 65535.
    """
    path = Path(folder) / video / mots_frame_name(video, frame, ".png")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bitmask(path, instances)
    return path


def mots_rle_frame(
    video: str, frame: int, labels: list[dict[str, Any]], height_width: tuple[int, int]
) -> dict[str, Any]:
    """A frame, numbered from 0 on, of the json that BDD100K's server takes; labels as of `InstanceMap.to_labels`."""
    return {
        "name": mots_frame_name(video, frame, ".jpg"),
        "videoName": video,
        "frameIndex": frame,
        "size": {"height": height_width[0], "width": height_width[1]},
        "labels": labels,
    }


def write_mots_rles(frames: Iterable[Mapping[str, Any]], folder: str | os.PathLike) -> Path:
    """Write `rles.json` with all frames of all videos, and `rles.zip` with that file alone.

    Returns:
        The zip file.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "rles.json", json.dumps({"frames": list(frames)}))
    return _zip(folder / "rles.zip", [(folder / "rles.json", "rles.json")])


def _zip(path: Path, files: Iterable[tuple[Path, str]]) -> Path:
    with replacing(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        for file, name in files:
            archive.write(file, name)
    return path
