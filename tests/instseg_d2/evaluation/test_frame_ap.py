import math

import numpy as np
import pytest

from instseg_d2.data.instance_maps import Flag, InstanceMap, empty_map
from instseg_d2.evaluation.frame_ap import FRAME_METRICS, FrameAP

CLASSES = ("cup", "pear")


def frame(*parts):
    """Rows of 10 x 40 pixels; a part is (first column, end, class, flags)."""
    index = np.zeros((10, 40), np.int32)
    for number, (first, end, *_) in enumerate(parts, start=1):
        index[:, first:end] = number
    columns = np.array([part[2:] for part in parts], np.int64).reshape(-1, 2)
    return InstanceMap(index, np.arange(1, len(parts) + 1), *columns.T)


def figures(*frames):
    """Of frames (truth, found, scores)."""
    collected = FrameAP(CLASSES)
    for truth, found, scores in frames:
        collected.add(truth, found.to_labels(CLASSES, dict(enumerate(scores, start=1))))
    return collected.figures()


def test_perfect():
    truth = frame((0, 10, 0, 0), (20, 30, 1, 0))
    found = figures((truth, truth, (0.5, 0.6)), (frame((0, 5, 0, 0)), frame((0, 5, 0, 0)), (0.9,)))
    assert tuple(found) == (*FRAME_METRICS, "AP-cup", "AP-pear")
    expected = dict.fromkeys(("AP", "AP50", "AP75", "APs", "AR1", "AR100", "ARs", "AP-cup", "AP-pear"), 100)
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert all(math.isnan(found[name]) for name in ("APm", "APl", "ARm", "ARl"))


def test_shares_by_hand():
    """An IoU of 8 / 10 is right at 7 of 10 thresholds; the cup that is missed halves the recall: 51 of 101 levels."""
    truth = frame((0, 10, 0, 0), (20, 30, 0, 0))
    found = figures((truth, frame((0, 8, 0, 0)), (0.5,)))
    assert found["AP"] == pytest.approx(100 * 0.7 * 51 / 101)
    assert found["AP75"] == pytest.approx(100 * 51 / 101)
    assert found["AR100"] == pytest.approx(35)
    assert math.isnan(found["AP-pear"])


@pytest.mark.parametrize("flag", [Flag.IGNORED, Flag.CROWD])
def test_ignored_regions_are_crowds(flag):
    truth = frame((0, 10, 0, 0), (20, 40, 0, flag))
    inside = frame((0, 10, 0, 0), (22, 28, 0, 0), (30, 36, 0, 0))
    assert figures((truth, inside, (0.5, 0.9, 0.8)))["AP"] == pytest.approx(100)


def test_nothing_found_and_nothing_to_find():
    truth = frame((0, 10, 0, 0))
    found = figures((truth, empty_map(10, 40), ()))
    assert (found["AP"], found["AP-cup"], found["AR100"]) == (0, 0, 0)
    assert all(math.isnan(value) for value in figures((empty_map(10, 40), truth, (0.5,))).values())
    # annotations of a class that there is not
    assert math.isnan(figures((frame((0, 10, 7, 0)), empty_map(10, 40), ()))["AP"])
