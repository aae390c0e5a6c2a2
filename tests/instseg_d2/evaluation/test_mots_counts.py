import math

import numpy as np
import pytest

from instseg_d2.data import DatasetError
from instseg_d2.data.bdd100k_categories import BDD100K_CLASSES
from instseg_d2.data.instance_maps import Flag, InstanceMap, empty_map
from instseg_d2.evaluation.mots import BDD100K_SUPER_CLASSES
from instseg_d2.evaluation.mots_counts import MOTS_MEANS, VideoCounter, mots_figures, overlaps

CLASSES = ("pedestrian", "car")


def line(*parts, width=40):
    """A frame of one row; a part is (id, first pixel, end, class, flags), the last two may be left out."""
    index = np.zeros((1, width), np.int32)
    rows = [(*part, *(1, 0)[len(part) - 3 :]) for part in parts]
    for number, (_, first, end, _, _) in enumerate(rows, start=1):
        index[0, first:end] = number
    ids, _, _, classes, flags = np.array(rows, np.int64).reshape(-1, 5).T
    return InstanceMap(index, ids, classes, flags)


def figures(*frames, classes=CLASSES, group="car", super_classes=None):
    """Figures of one group over the frames (truth, found) of a video."""
    counter = VideoCounter(len(classes))
    for truth, found in frames:
        counter.add(truth, found)
    result = mots_figures(counter.counts(), classes, super_classes)
    return {name.partition("-")[0]: value for name, value in result.items() if name.endswith(f"-{group}")}


def following(*ids, extra=()):
    """An object of 8 pixels in every frame, found exactly under these ids; None where it is missed."""
    return [(line((7, 0, 8)), line(*([] if identity is None else [(identity, 0, 8)]), *extra)) for identity in ids]


# What happens: MOTSA, MOTSP, IDF1, IDSw, FP, FN, MT, PT, ML, FM. IDF1 is 2 IDTP / (objects + predictions).
@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        pytest.param(following(3, 3, 3, 3), (100, 100, 100, 0, 0, 0, 1, 0, 0, 0), id="perfect"),
        pytest.param(following(1, 1, 2, 2), (75, 100, 50, 1, 0, 0, 1, 0, 0, 0), id="switch"),
        pytest.param(following(1, None, 1, 1), (75, 100, 600 / 7, 0, 0, 1, 0, 1, 0, 1), id="same id after a gap"),
        pytest.param(following(1, None, 2, 2), (50, 100, 400 / 7, 1, 0, 1, 0, 1, 0, 1), id="other id after a gap"),
        pytest.param(
            following(1, 1, 1, 1, extra=[(2, 20, 30)]), (0, 100, 800 / 12, 0, 4, 0, 1, 0, 0, 0), id="false track"
        ),
        pytest.param(following(None, None, None, None), (0, None, 0, 0, 0, 4, 0, 0, 1, 0), id="nothing is found"),
        pytest.param(
            [(empty_map(1, 40), line((1, 0, 8)))] * 3, (None, None, 0, 0, 3, 0, 0, 0, 0, 0), id="nothing is there"
        ),
        pytest.param([(empty_map(1, 40), empty_map(0, 0))], (None, None, None, 0, 0, 0, 0, 0, 0, 0), id="empty frames"),
        # a pixel has one label: the duplicate has 3 of the 8 pixels
        pytest.param(
            [(line((7, 0, 8)), line((1, 0, 5), (2, 5, 8)))] * 2, (0, 62.5, 400 / 6, 0, 2, 0, 1, 0, 0, 0), id="duplicate"
        ),
        # 8 of 16 pixels are enough, 8 of 17 are not
        pytest.param([(line((7, 0, 8)), line((1, 0, 16)))], (100, 50, 100, 0, 0, 0, 1, 0, 0, 0), id="IoU of a half"),
        pytest.param([(line((7, 0, 8)), line((1, 0, 17)))], (-100, None, 0, 0, 1, 1, 0, 0, 1, 0), id="IoU below"),
        pytest.param([(line((7, 0, 8)), line((1, 0, 8, 0)))], (0, None, 0, 0, 0, 1, 0, 0, 1, 0), id="other class"),
        # both have half of the object in the second frame; the one that it had stays with it, either way
        *(
            pytest.param(
                [(line((7, 0, 8)), line((first, 0, 8))), (line((7, 0, 8)), line((1, 0, 4), (2, 4, 8)))],
                (50, 75, 80, 0, 1, 0, 1, 0, 0, 0),
                id=f"continuity of {first}",
            )
            for first in (1, 2)
        ),
    ],
)
def test_figures_by_hand(frames, expected):
    found = tuple(None if math.isnan(value) else value for value in figures(*frames).values())
    assert found == pytest.approx(expected)


def test_exchange_of_identities():
    """Two objects whose ids are exchanged: two switches of eight, and half of the frames under one identity."""
    truth = line((7, 0, 8), (8, 20, 28))
    frames = [(truth, line((1, 0, 8), (2, 20, 28)))] * 2 + [(truth, line((2, 0, 8), (1, 20, 28)))] * 2
    found = figures(*frames)
    assert (found["MOTSA"], found["IDSw"], found["IDF1"]) == pytest.approx((75, 2, 50))


@pytest.mark.parametrize("flag", [Flag.IGNORED, Flag.CROWD])
@pytest.mark.parametrize("category", [0, 1])
def test_ignored_regions(flag, category):
    """They are no objects, and take away false predictions of any class with more than half of their area inside."""
    truth = line((7, 0, 8), (9, 20, 30, category, flag))
    inside, half, match = (1, 22, 30), (2, 26, 34), (3, 0, 8)
    assert figures((truth, line(inside, match)))["MOTSA"] == 100
    assert figures((truth, line(half, match)))["FP"] == 1
    assert figures((truth, line(match)))["FN"] == 0
    # with an IoU of a half there is no more than a half inside of the region
    found = figures((line((7, 0, 8), (9, 8, 30, category, flag)), line((3, 0, 16))))
    assert (found["MOTSA"], found["MOTSP"]) == pytest.approx((100, 50))


def test_further_flags_do_not_matter():
    truth = line((7, 0, 8, 1, Flag.OCCLUDED | Flag.TRUNCATED))
    assert figures((truth, line((1, 0, 8))))["MOTSA"] == 100


def test_the_example_of_bdd100k():
    """The figures that BDD100K's toolkit gives for its own test, with two of three pedestrians and IoUs 1 and 1/2.

    One of eight classes has objects: the means over classes are an eighth of MOTSA 2/3, MOTSP 3/4 and IDF1 4/5.
    """
    truth = line((1, 0, 6, 0), (2, 10, 14, 0), (3, 20, 28, 0))
    found = line((1, 0, 12, 0), (3, 20, 28, 0))
    counter = VideoCounter(8)
    counter.add(truth, found)
    result = mots_figures(counter.counts(), BDD100K_CLASSES, BDD100K_SUPER_CLASSES)
    assert [result[name] for name in MOTS_MEANS] == pytest.approx([100 / 12, 9.375, 10])
    for group in ("pedestrian", "human", "OVERALL"):
        values = [
            result[f"{name}-{group}"] for name in ("MOTSA", "MOTSP", "IDF1", "IDSw", "FP", "FN", "MT", "PT", "ML")
        ]
        assert values == pytest.approx([200 / 3, 75, 80, 0, 0, 1, 2, 0, 1])
    assert (result["FN"], result["IDSw"]) == (1, 0)
    assert all(math.isnan(result[f"MOTSA-{name}"]) for name in ("rider", "vehicle", "bike"))


def test_counts_of_videos_and_classes_are_added_up():
    """Identities start anew in every video: 1 in the first and 1 in the second are different tracks."""
    total = 0
    for identity in (1, 2):
        counter = VideoCounter(2)
        for truth, found in following(identity, identity):
            counter.add(truth, found)
        total = total + counter.counts()
    counter = VideoCounter(2)
    counter.add(line((1, 0, 8, 0)), line((4, 10, 20, 0)))
    result = mots_figures(total + counter.counts(), CLASSES, {"all": CLASSES, "cars": ["car"]})
    assert (result["MOTSA-car"], result["IDSw-car"], result["MT-car"]) == (100, 0, 2)
    assert (result["MOTSA-pedestrian"], result["mMOTSA"], result["mMOTSP"]) == (-100, 0, 50)
    # over all: 5 objects, one of them missed, one false
    assert result["MOTSA-OVERALL"] == result["MOTSA-all"] == pytest.approx(60)
    assert {name: result[f"{name}-cars"] for name in ("MOTSA", "IDF1")} == {"MOTSA": 100, "IDF1": 100}
    assert (result["FP"], result["FN"]) == (1, 1)


def test_overlaps_by_hand():
    truth, found = line((1, 0, 6), (2, 10, 20)), line((5, 3, 12), (6, 30, 35))
    ious, inside = overlaps(truth, found)
    np.testing.assert_allclose(ious, [[3 / 12, 0], [2 / 17, 0]])
    np.testing.assert_allclose(inside, [[3 / 9, 0], [2 / 9, 0]])
    assert overlaps(truth, empty_map(0, 0))[0].shape == (2, 0)


def test_maps_that_do_not_fit():
    with pytest.raises(DatasetError, match=r"prediction has \[height, width\] \[1, 50\], the truth \[1, 40\]"):
        figures((line((1, 0, 8)), line((1, 0, 8), width=50)))
    with pytest.raises(DatasetError, match="instance 5 has a category that is none of 1 to 2"):
        figures((line((1, 0, 8)), line((5, 0, 8, 2))))
    # an annotation of a class that there is not is no object
    assert figures((line((1, 0, 8), (2, 10, 20, 5)), line((1, 0, 8))), group="OVERALL")["MOTSA"] == 100
