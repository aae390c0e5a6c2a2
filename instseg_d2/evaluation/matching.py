"""COCO's matching and precision for many subsets of the ground truth at once, from a finished evaluation's IoUs.

pycocotools cannot do it: it overwrites any `ignore` flag of the ground truth with the crowd flag, and that one would
change the IoU and allow many matches. And one run for each subset would take the time of as many evaluations.
"""

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools.cocoeval import COCOeval

# What a detection is.
FALSE, TRUE, IGNORED = 0, 1, 2


@dataclass(frozen=True)
class Variant:
    """What counts in one of the evaluations.

    Attributes:
        kept: annotation ids of the ground truth that counts.
        area: name of a range of areas of `COCOeval.params`, which limits it further: "all", "small", ...
    """

    kept: Collection
    area: str = "all"


class _Rules:
    """The variants as arrays, V of them, and the T thresholds of the IoU."""

    def __init__(self, params: Any, variants: Sequence[Variant]):
        ranges = dict(zip(params.areaRngLbl, params.areaRng, strict=True))
        self.kept = [variant.kept for variant in variants]
        self.low, self.high = np.array([ranges[variant.area] for variant in variants], dtype=float).T[:, :, None]
        self.thresholds = np.minimum(params.iouThrs, 1 - 1e-10)
        self.limit = max(params.maxDets)

    def outside(self, areas: Sequence[float]) -> np.ndarray:
        """Whether each of N areas is outside of the variant's range; (V, N)."""
        return (np.asarray(areas) < self.low) | (np.asarray(areas) > self.high)

    def ignored(self, truth: Sequence[dict]) -> np.ndarray:
        """Whether each of G annotations does not count; (V, G)."""
        selected = np.array([[one["id"] in kept for one in truth] for kept in self.kept])
        crowd = np.array([bool(one.get("iscrowd", 0)) for one in truth])
        return ~selected | crowd | self.outside([one["area"] for one in truth])


def precisions(finished: COCOeval, variants: Sequence[Variant]) -> np.ndarray:
    """Precision when all ground truth but a variant's own is ignored.

    Ignored means as in COCO's size ranges: it counts neither as found nor as missed, a detection matched to it
    neither as right nor as wrong, and a detection prefers an instance that counts wherever their IoU suffices. A
    detection without any match is wrong in every variant, unless its area is outside of the range. Crowd regions stay
    what they are.

    Args:
        finished: after `evaluate()`, of boxes or masks; of pycocotools, or of one of detectron2's faster versions.
        variants: V of them.

    Returns:
        (V, T, R, K): for each variant as `COCOeval.eval["precision"]` of one area range with the largest number of
        detections; -1 where a category has no ground truth that counts.
    """
    params = finished.params
    rules = _Rules(params, variants)
    pairs: dict[Any, list[Any]] = {category: [] for category in params.catIds}
    # In the order of images, which decides between equal scores.
    for image, category in sorted(key for key, found in finished._dts.items() if found):
        pairs[category].append((image, category))
    counts = {category: np.zeros(len(variants), dtype=int) for category in params.catIds}
    ignored = {pair: rules.ignored(truth) for pair, truth in finished._gts.items() if truth}
    for (_, category), flags in ignored.items():
        counts[category] += (~flags).sum(axis=1)
    result = -np.ones((len(variants), len(params.iouThrs), len(params.recThrs), len(params.catIds)))
    for position, category in enumerate(params.catIds):
        scores, outcomes = _outcomes(finished, rules, pairs[category], ignored)
        order = np.argsort(-scores, kind="stable")
        for variant in np.flatnonzero(counts[category]):
            curve = outcomes[variant][:, order]
            result[variant, :, :, position] = interpolated_precision(curve, counts[category][variant], params.recThrs)
    return result


def _outcomes(
    finished: COCOeval, rules: _Rules, pairs: Sequence[tuple], ignored: dict[tuple, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Scores (N,) of all detections of one category, and what each of them is, (V, T, N) int8."""
    found = [sorted(finished._dts[pair], key=lambda detection: -detection["score"])[: rules.limit] for pair in pairs]
    everything = list(itertools.chain.from_iterable(found))
    outside = rules.outside([detection["area"] for detection in everything])
    # (V, 1, N) repeated for each threshold
    outcomes = np.repeat(np.where(outside, IGNORED, FALSE).astype(np.int8)[:, None], len(rules.thresholds), axis=1)
    start = 0
    for pair, detections in zip(pairs, found, strict=True):
        if pair in ignored:
            crowd = np.array([bool(one.get("iscrowd", 0)) for one in finished._gts[pair]])
            part = outcomes[..., start : start + len(detections)]
            match_detections(part, np.asarray(finished.ious[pair]), ignored[pair], crowd, rules.thresholds)
        start += len(detections)
    return np.array([detection["score"] for detection in everything], dtype=float), outcomes


def match_detections(
    outcome: np.ndarray, ious: np.ndarray, ignored: np.ndarray, crowd: np.ndarray, thresholds: np.ndarray
) -> None:
    """Match the detections of one image and category to its ground truth, the best first.

    Args:
        outcome: (V, T, D) int8, set where a detection has a match.
        ious: (D, G), the detections by falling score.
        ignored: (V, G) bool.
        crowd: (G,) bool: may be matched any number of times.
        thresholds: (T,).
    """
    free = np.ones((*outcome.shape[:2], len(crowd)), dtype=bool)
    counts = ~ignored[:, None]
    for detection in np.flatnonzero(ious.max(axis=1) >= thresholds[0]):
        candidates = free & (ious[detection] >= thresholds[:, None])
        counting = candidates & counts
        candidates = np.where(counting.any(axis=2, keepdims=True), counting, candidates)
        # Of equal ones COCO takes the last.
        best = len(crowd) - 1 - np.where(candidates, ious[detection], -1)[..., ::-1].argmax(axis=2)
        variant, threshold = candidates.any(axis=2).nonzero()
        taken = best[variant, threshold]
        outcome[variant, threshold, detection] = np.where(ignored[variant, taken], IGNORED, TRUE)
        free[variant, threshold, taken] = crowd[taken]


def interpolated_precision(curve: np.ndarray, count: int, recalls: np.ndarray) -> np.ndarray:
    """Interpolated precision (T, R) at given recalls.

    Args:
        curve: (T, N) what each detection is, by falling score.
        count: number of instances to find.
        recalls: (R,).
    """
    right = np.cumsum(curve == TRUE, axis=1, dtype=float)
    wrong = np.cumsum(curve == FALSE, axis=1, dtype=float)
    precision = right / (right + wrong + np.spacing(1))
    # The best precision at this recall or any higher one, and 0 at a recall that is not reached.
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    envelope = np.concatenate([envelope, np.zeros((len(curve), 1))], axis=1)
    return np.stack(
        [values[np.searchsorted(found / count, recalls)] for values, found in zip(envelope, right, strict=True)]
    )
