"""CLEAR and identity figures of tracked masks, as BDD100K's multi-object tracking and segmentation defines them.

Per frame and class, an annotated and a predicted instance may be matched when the IoU of their masks is at least 0.5. A
pair that was matched before is kept as long as that holds; the others are matched by least total 1 - IoU. The
accumulators of motmetrics do that; the overlaps are given to them.
"""

from collections.abc import Mapping, Sequence

import motmetrics
import numpy as np

from instseg_d2.data import DatasetError
from instseg_d2.data.instance_maps import InstanceMap

MOTS_METRICS = ("MOTSA", "MOTSP", "IDF1", "IDSw", "FP", "FN", "MT", "PT", "ML", "FM")
MOTS_MEANS = ("mMOTSA", "mMOTSP", "mIDF1")
OVERALL = "OVERALL"

_MIN_IOU = 0.5
_MAX_IGNORED = 0.5

# What adds up over videos and classes, in the order of the columns; the last one is that of the sum of distances.
_COLUMNS = {
    "objects": "num_objects",
    "predictions": "num_predictions",
    "FN": "num_misses",
    "FP": "num_false_positives",
    "IDSw": "num_switches",
    "matches": "num_detections",
    "IDTP": "idtp",
    "MT": "mostly_tracked",
    "PT": "partially_tracked",
    "ML": "mostly_lost",
    "FM": "num_fragmentations",
}
_COUNTED = ("IDSw", "FP", "FN", "MT", "PT", "ML", "FM")


def overlaps(truth: InstanceMap, found: InstanceMap) -> tuple[np.ndarray, np.ndarray]:
    """How much the instances of two maps of one frame overlap.

    Returns:
        (G, D) IoU, and (G, D) the share of each predicted instance that lies inside of each annotated one.

    Raises:
        DatasetError: the maps are of different sizes.
    """
    if not len(truth) or not len(found):
        return np.zeros((len(truth), len(found))), np.zeros((len(truth), len(found)))
    if truth.index.shape != found.index.shape:
        raise DatasetError(
            f"the prediction has [height, width] {list(found.index.shape)}, the truth {list(truth.index.shape)}"
        )
    pairs = truth.index.ravel().astype(np.int64) * (len(found) + 1) + found.index.ravel()
    table = np.bincount(pairs, minlength=(len(truth) + 1) * (len(found) + 1)).reshape(len(truth) + 1, len(found) + 1)
    shared = table[1:, 1:]
    areas_truth, areas_found = table.sum(axis=1)[1:, None], table.sum(axis=0)[1:]
    return shared / (areas_truth + areas_found - shared), shared / areas_found


class VideoCounter:
    """Counts of one video.

    Args:
        num_classes: of the data set.
    """

    def __init__(self, num_classes: int) -> None:
        self._accumulators = [motmetrics.MOTAccumulator(auto_id=True) for _ in range(num_classes)]

    def add(self, truth: InstanceMap, found: InstanceMap) -> None:
        """Take the next frame.

        Regions of the truth that are to be ignored, of whatever class, are no objects. Predictions with more than half
        of their area in one of them count neither as right nor as wrong.

        Raises:
            DatasetError: the maps are of different sizes, or the prediction has a class that there is not.
        """
        num_classes = len(self._accumulators)
        wrong = found.ids[(found.classes < 0) | (found.classes >= num_classes)]
        if len(wrong):
            raise DatasetError(f"instance {wrong[0]} has a category that is none of 1 to {num_classes}")
        ious, inside = overlaps(truth, found)
        # None of these could be matched, since more than half of it lies outside of every object.
        hidden = (inside[truth.ignored] > _MAX_IGNORED).any(axis=0)
        distances = np.where(ious >= _MIN_IOU, 1 - ious, np.nan)
        for category, accumulator in enumerate(self._accumulators):
            rows = (truth.classes == category) & ~truth.ignored
            columns = (found.classes == category) & ~found.ignored & ~hidden
            if rows.any() or columns.any():
                accumulator.update(truth.ids[rows], found.ids[columns], distances[np.ix_(rows, columns)])

    def counts(self) -> np.ndarray:
        """(C, K) of each class, what `mots_figures` makes figures of; counts of videos may be added."""
        host = motmetrics.metrics.create()
        table = np.zeros((len(self._accumulators), len(_COLUMNS) + 1))
        for row, accumulator in zip(table, self._accumulators, strict=True):
            if len(accumulator.events):
                found = host.compute(accumulator, metrics=[*_COLUMNS.values(), "motp"], return_dataframe=False)
                row[:-1] = [found[name] for name in _COLUMNS.values()]
                row[-1] = found["motp"] * found["num_detections"] if found["num_detections"] else 0
        return table


def mots_figures(
    counts: np.ndarray, class_names: Sequence[str], super_classes: Mapping[str, Sequence[str]] | None = None
) -> dict[str, float]:
    """Figures of a data set.

    Args:
        counts: (C, K), the sum over all videos.
        class_names: C of them.
        super_classes: names of classes by the name of their union.

    Returns:
        `MOTS_MEANS`, the means over the classes in percent, in which a class with neither objects nor predictions
        counts as 0; the sums of IDSw (switches of identity), FP, FN, MT, PT, ML (tracks that are mostly, partially or
        hardly followed) and FM (interruptions). And `<metric>-<class>` of `MOTS_METRICS` for each class, super-class
        and OVERALL, with their counts added up; NaN where there is nothing to divide by.
    """
    names = list(class_names)
    groups = {name: [name] for name in names} | {key: list(value) for key, value in (super_classes or {}).items()}
    groups[OVERALL] = names
    rows = {name: [names.index(one) for one in members] for name, members in groups.items()}
    by_group = {name: _figures(counts[members].sum(axis=0)) for name, members in rows.items()}
    of_classes = [by_group[name] for name in names]
    means = [float(np.mean([np.nan_to_num(one[metric]) for one in of_classes])) for metric in MOTS_METRICS[:3]]
    result: dict[str, float] = dict(zip(MOTS_MEANS, means, strict=True))
    result |= {metric: by_group[OVERALL][metric] for metric in _COUNTED}
    result |= {f"{metric}-{name}": one[metric] for name, one in by_group.items() for metric in MOTS_METRICS}
    return result


def _figures(counts: np.ndarray) -> dict[str, float]:
    value = dict(zip(_COLUMNS, counts.tolist(), strict=False))
    wrong = value["FN"] + value["FP"] + value["IDSw"]
    return {
        "MOTSA": 100 - 100 * _ratio(wrong, value["objects"]),
        "MOTSP": 100 - 100 * _ratio(float(counts[-1]), value["matches"]),
        "IDF1": 100 * _ratio(2 * value["IDTP"], value["objects"] + value["predictions"]),
        **{name: int(value[name]) for name in _COUNTED},
    }


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
