"""AP and AR of tracks, as the YouTube-VIS server computes them (Video Instance Segmentation, Yang et al., ICCV 2019).

A track is one category, one score and a mask or nothing for every frame. Two tracks overlap by the pixels that they
share over the pixels that one of them has, both summed over all frames; the rest is COCO's evaluation, video by video.
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as mask_util

from .matching import FALSE, IGNORED, TRUE, interpolated_precision, match_detections
from .track_files import Track, TrackTruth, read_results, read_truth
from .video_selection import EVERYTHING, VideoSelection

TRACK_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10")

_THRESHOLDS = np.linspace(0.5, 0.95, 10)
_AT_50, _AT_75 = 0, 5
_RECALLS = np.linspace(0, 1, 101)
# Mean area of a track over the frames in which it is seen, pixels. These limits are 16 times COCO's.
_AREAS = np.array([(0, 1e10), (0, 128**2), (128**2, 256**2), (256**2, 1e10)])
# Of one video and category: of the precision, and of AR1 and AR10.
_MOST_TRACKS = 100
_FEW_TRACKS = (1, 10)


def track_ap(
    results: str | os.PathLike | list[Track],
    truth: str | os.PathLike | dict[str, Any],
    selection: VideoSelection = EVERYTHING,
) -> dict[str, float]:
    """Evaluate detected tracks.

    Args:
        results: a results file of YouTube-VIS, or its content: per track `video_id`, `category_id`, `score` and
            `segmentations`, a mask or null for every frame.
        truth: an annotation file of YouTube-VIS, or its content. Tracks without any mask take no part.
        selection: the frames that count. Tracks are cut to them, and take no part when nothing of them remains.

    Returns:
        `TRACK_METRICS` and `AP-<category>`, in percent; NaN where there is nothing to find.

    Raises:
        DatasetError: a file is not what it must be, or nothing is selected.
    """
    known = read_truth(truth, selection)
    return evaluate_tracks(read_results(results, known), known)


def evaluate_tracks(tracks: Iterable[Track], truth: TrackTruth) -> dict[str, float]:
    """Evaluate detected tracks that were read already; see `track_ap`.

    Args:
        tracks: of `read_results`.
        truth: of `read_truth`.
    """
    found, annotated = _group(tracks), _group(truth.tracks)
    precisions, recalls = [], []
    for category in truth.categories:
        judged = _Category()
        for video in sorted(truth.videos):
            judged.add(found.get((category, video)), annotated.get((category, video)))
        precision, recall = judged.figures()
        precisions.append(precision)
        recalls.append(recall)
    by_area, recall = _mean(np.stack(precisions)), _mean(np.stack(recalls))
    sizes = by_area.mean(axis=1)
    values = (sizes[0], by_area[0, _AT_50], by_area[0, _AT_75], *sizes[1:], *recall)
    by_category = {f"AP-{name}": one[0].mean() for name, one in zip(truth.categories.values(), precisions, strict=True)}
    figures = {**dict(zip(TRACK_METRICS, values, strict=True)), **by_category}
    return {name: 100 * float(value) for name, value in figures.items()}


def _mean(by_category: np.ndarray) -> np.ndarray:
    """Mean over the categories that have something to find; NaN where none has."""
    there = ~np.isnan(by_category)
    total, count = np.where(there, by_category, 0).sum(axis=0), there.sum(axis=0)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def track_ious(found: Sequence[Sequence[dict | None]], truth: Sequence[Sequence[dict | None]]) -> np.ndarray:
    """Spatio-temporal IoU of every two tracks.

    Args:
        found: D tracks of T frames each: compressed run lengths, all of one size, or None.
        truth: G of them.

    Returns:
        (D, G); 0 where neither has a pixel.
    """
    shared = np.zeros((len(found), len(truth)))
    if not shared.size:
        return shared
    areas = np.zeros(len(found)), np.zeros(len(truth))
    for found_now, truth_now in zip(zip(*found, strict=True), zip(*truth, strict=True), strict=True):
        rows, columns = (
            [number for number, mask in enumerate(masks) if mask is not None] for masks in (found_now, truth_now)
        )
        detected, annotated = [found_now[row] for row in rows], [truth_now[column] for column in columns]
        areas[1][columns] += _sizes(annotated)
        if not rows:
            continue
        sizes = _sizes(detected)
        areas[0][rows] += sizes
        if columns:
            # With the crowd flag, pycocotools divides the intersection by the area of the first.
            shares = mask_util.iou(detected, annotated, [1] * len(columns))
            shared[np.ix_(rows, columns)] += np.rint(shares * sizes[:, None])
    united = areas[0][:, None] + areas[1] - shared
    return np.divide(shared, united, out=np.zeros_like(shared), where=united > 0)


def _sizes(masks: list[dict]) -> np.ndarray:
    return np.asarray(mask_util.area(masks) if masks else (), dtype=float)


@dataclass(frozen=True)
class _Tracks:
    """N tracks of one video and category, by falling score.

    Attributes:
        masks: N lists of run lengths, None where a frame has none.
        areas: (N,) mean area in pixels, of the frames where there is some.
        scores: (N,); of the truth zeros.
        crowd: (N,) bool.
    """

    masks: list[list[dict | None]]
    areas: np.ndarray
    scores: np.ndarray
    crowd: np.ndarray

    @property
    def outside(self) -> np.ndarray:
        """Whether each is outside of each of V ranges of areas, (V, N)."""
        return (self.areas < _AREAS[:, :1]) | (self.areas > _AREAS[:, 1:])


def _group(tracks: Iterable[Track]) -> dict[tuple[int, int], _Tracks]:
    """Tracks by category and video, not more than are evaluated."""
    groups: dict[tuple[int, int], list[Track]] = defaultdict(list)
    for track in tracks:
        groups[track["category_id"], track["video_id"]].append(track)
    return {key: _ranked(group) for key, group in groups.items()}


def _ranked(group: list[Track]) -> _Tracks:
    if "score" in group[0]:
        group = sorted(group, key=lambda track: -track["score"])[:_MOST_TRACKS]
    return _Tracks(
        [track["segmentations"] for track in group],
        np.array([_mean_area(track) for track in group]),
        np.array([track.get("score", 0) for track in group], dtype=float),
        np.array([bool(track.get("iscrowd", 0)) for track in group]),
    )


def _mean_area(track: Track) -> float:
    areas = track.get("areas") or _sizes([mask for mask in track["segmentations"] if mask is not None])
    present = [area for area in areas if area]
    return float(np.mean(present)) if present else 0.0


class _Category:
    """What the detected tracks of one category are, video after video: V ranges of areas, T thresholds, N tracks."""

    def __init__(self) -> None:
        self._counts = np.zeros(len(_AREAS), dtype=int)
        self._scores = [np.zeros(0)]
        self._ranks = [np.zeros(0, dtype=int)]
        self._outcomes = [np.zeros((len(_AREAS), len(_THRESHOLDS), 0), dtype=np.int8)]

    def add(self, found: _Tracks | None, truth: _Tracks | None) -> None:
        """Match the tracks of a video."""
        ignored = None if truth is None else truth.crowd | truth.outside
        if truth is not None:
            self._counts += (~ignored).sum(axis=1)
        if found is None:
            return
        unmatched = np.where(found.outside, IGNORED, FALSE).astype(np.int8)
        outcome = np.repeat(unmatched[:, None], len(_THRESHOLDS), axis=1)  # (V, T, N)
        if truth is not None:
            match_detections(outcome, track_ious(found.masks, truth.masks), ignored, truth.crowd, _THRESHOLDS)
        self._scores.append(found.scores)
        self._ranks.append(np.arange(len(found.scores)))
        self._outcomes.append(outcome)

    def figures(self) -> tuple[np.ndarray, np.ndarray]:
        """AP (V, T), and AR of the best 1 and the best 10 of a video (2,); NaN where there is nothing to find."""
        outcomes = np.concatenate(self._outcomes, axis=2)
        # Of equal scores the earlier video, and in one the earlier entry.
        order = np.argsort(-np.concatenate(self._scores), kind="stable")
        precision = np.full(outcomes.shape[:2], np.nan)
        for area in np.flatnonzero(self._counts):
            curve = outcomes[area][:, order]
            precision[area] = interpolated_precision(curve, self._counts[area], _RECALLS).mean(axis=1)
        if not self._counts[0]:
            return precision, np.full(len(_FEW_TRACKS), np.nan)
        ranks = np.concatenate(self._ranks)
        # A detection is matched before those of lower scores, which therefore do not change what it is.
        right = [(outcomes[0][:, ranks < most] == TRUE).sum(axis=1).mean() for most in _FEW_TRACKS]
        return precision, np.array(right) / self._counts[0]
