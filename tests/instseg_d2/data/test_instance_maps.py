from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from instseg_d2.data import DatasetError
from instseg_d2.data.instance_maps import (
    MAX_ID,
    Flag,
    InstanceMap,
    empty_map,
    map_of_labels,
    paint,
    parse_bitmask,
    read_bitmask,
    read_scalabel,
    write_bitmask,
)
from instseg_d2.data.run_lengths import decode_mask

SAMPLES = Path(__file__).resolve().parents[4] / "shared" / "data" / "label_samples" / "bdd100k"
CLASSES = ("pedestrian", "rider", "car")


def instances(index, ids, classes, flags=None):
    flags = [0] * len(ids) if flags is None else flags
    return InstanceMap(np.array(index, np.int32), *(np.array(one, np.int64) for one in (ids, classes, flags)))


def random_map(seed, size=(20, 30), count=6):
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, *size), dtype=bool)
    for mask in masks:
        top, left = rng.integers(0, (15, 25))
        mask[top : top + rng.integers(2, 9), left : left + rng.integers(2, 9)] = True
    ids = rng.choice(np.array([1, 2, 255, 256, 257, 5000, MAX_ID]), count, replace=False)
    found = paint(masks, rng.random(count), ids, rng.integers(0, 3, count))
    return InstanceMap(found.index, found.ids, found.classes, rng.integers(0, 16, len(found)))


def assert_same(one, other):
    """The same instances, in whatever order."""
    assert one.index.shape == other.index.shape
    assert sorted(one.ids) == sorted(other.ids)
    for number, identity in enumerate(one.ids):
        (match,) = np.flatnonzero(other.ids == identity)
        assert (one.classes[number], one.flags[number]) == (other.classes[match], other.flags[match])
        np.testing.assert_array_equal(one.index == number + 1, other.index == match + 1)


def test_channels_by_hand():
    bitmask = np.zeros((2, 3, 4), np.uint8)
    bitmask[0, :2] = (3, Flag.CROWD | Flag.OCCLUDED, 1, 2)
    bitmask[1, 2] = (1, 0, 0, 7)
    bitmask[1, 0] = (2, 0, 0, 0)  # identity 0 is background
    found = parse_bitmask(bitmask)
    assert found.ids.tolist() == [7, 258]
    assert found.classes.tolist() == [0, 2]
    assert found.flags.tolist() == [0, 6]
    assert found.ignored.tolist() == [False, True]
    assert found.index.tolist() == [[2, 2, 0], [0, 0, 1]]
    bitmask[1, 0] = 0
    np.testing.assert_array_equal(found.to_bitmask(), bitmask)


@pytest.mark.parametrize("seed", range(4))
def test_bitmask_and_labels_hold_the_same(seed, tmp_path):
    original = random_map(seed)
    write_bitmask(tmp_path / "frame.png", original)
    read = read_bitmask(tmp_path / "frame.png")
    assert_same(original, read)
    labels = read.to_labels(CLASSES, {int(read.ids[0]): 0.25})
    assert [label.get("score") for label in labels] == [0.25] + [None] * (len(read) - 1)
    assert_same(original, map_of_labels(labels, CLASSES, (20, 30), "frame"))


def test_frame_without_instances(tmp_path):
    write_bitmask(tmp_path / "frame.png", empty_map(4, 6))
    assert not cv2.imread(str(tmp_path / "frame.png"), cv2.IMREAD_UNCHANGED).any()
    assert len(read_bitmask(tmp_path / "frame.png")) == 0
    assert empty_map(4, 6).to_labels(CLASSES) == []
    assert map_of_labels([], CLASSES, (4, 6), "frame").index.shape == (4, 6)


def test_painting_gives_a_pixel_to_the_higher_score():
    masks = np.zeros((4, 1, 6), dtype=bool)
    masks[0, 0, 0:4] = masks[1, 0, 2:6] = masks[2, 0, 3:4] = masks[3, 0, 3:5] = True
    found = paint(masks, np.array([0.5, 0.9, 0.1, 0.9]), np.array([4, 3, 2, 1]), np.array([0, 1, 2, 0]))
    # The third is hidden; of the second and the fourth, equal in score, the one that comes first.
    assert found.index.tolist() == [[1, 1, 2, 2, 2, 2]]
    assert found.ids.tolist() == [4, 3]
    assert found.classes.tolist() == [0, 1]
    best = paint(masks, np.array([0.5, 0.9, 0.1, 0.8]), np.array([4, 3, 2, 1]), np.array([0, 1, 2, 0]), limit=1)
    assert best.ids.tolist() == [3]
    assert len(paint(masks[:0], np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64))) == 0


@pytest.mark.parametrize("ids", [[0], [-1], [MAX_ID + 1]])
def test_identities_that_a_bitmask_cannot_hold(ids):
    with pytest.raises(ValueError, match="between 1 and 65535"):
        instances([[1]], ids, [0]).to_bitmask()


@pytest.mark.parametrize("channel", [0, 1])
def test_one_identity_with_several_categories_or_flags(channel):
    bitmask = np.full((2, 2, 4), 1, np.uint8)
    bitmask[0, 0, channel] = 2
    with pytest.raises(DatasetError, match="instance 257 has several categories or flags"):
        parse_bitmask(bitmask)


def test_files_that_are_no_bitmasks(tmp_path):
    with pytest.raises(DatasetError, match="no bitmask .*frame.png"):
        read_bitmask(tmp_path / "frame.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "frame.png")
    with pytest.raises(DatasetError, match=r"frame.png: a bitmask has four channels"):
        read_bitmask(tmp_path / "frame.png")
    (tmp_path / "frame.png").write_bytes(b"nothing")
    with pytest.raises(DatasetError, match=r"frame.png: cannot identify"):
        read_bitmask(tmp_path / "frame.png")


def test_labels_that_contradict_each_other():
    labels = instances([[1, 1, 2]], [5, 6], [0, 2]).to_labels(CLASSES)

    def parse(*changed, size=(1, 3), **options):
        return map_of_labels(changed, CLASSES, size, "frame 3 of video a", **options)

    overlapping = [labels[0], {**labels[0], "id": "6"}]
    with pytest.raises(DatasetError, match="frame 3 of video a: the masks of 6 and 5 overlap in 2 pixels"):
        parse(*overlapping)
    with pytest.raises(DatasetError, match="two labels have the id 5"):
        parse(labels[0], {**labels[1], "id": "5"})
    with pytest.raises(DatasetError, match="category 'boat' is none of pedestrian"):
        parse({**labels[0], "category": "boat"})
    with pytest.raises(DatasetError, match="label '5' has no 'rle'"):
        parse({**labels[0], "rle": None})
    with pytest.raises(DatasetError, match="label '5' has no mask that can be read: .*the image"):
        parse(labels[0], size=(3, 1))
    with pytest.raises(DatasetError, match="id 'x1' is no number"):
        parse({**labels[0], "id": "x1"})
    assert parse({**labels[0], "id": "x1"}, identities={"x1": 9}).ids.tolist() == [9]


def test_distractors_are_ignored_and_empty_masks_left_out():
    labels = instances([[1, 2, 3]], [5, 6, 7], [0, 2, 1]).to_labels(("other person", "rider", "other vehicle"))
    labels.append({**labels[1], "id": "8", "rle": {"size": [1, 3], "counts": [3]}})
    found = map_of_labels(labels, CLASSES, (1, 3), "frame")
    assert found.ids.tolist() == [5, 6, 7]
    assert found.classes.tolist() == [0, 2, 1]
    assert found.ignored.tolist() == [True, True, False]


def test_scalabel_files(tmp_path):
    path = tmp_path / "labels.json"
    for text, frames in (('[{"name": "a"}]', 1), ('{"frames": [{"name": "a"}, {"name": "b"}], "config": null}', 2)):
        path.write_text(text)
        assert len(read_scalabel(path)) == frames
    for text, message in (("[1]", "neither a list of frames"), ("{}", "neither a list"), ("[", "cannot read .*labels")):
        path.write_text(text)
        with pytest.raises(DatasetError, match=message):
            read_scalabel(path)


@pytest.mark.skipif(not SAMPLES.exists(), reason="the samples of real labels are not there")
def test_samples_of_bdd100k(tmp_path):
    """Files of the data set's own toolkit: read, written as labels, and back."""
    classes = ("pedestrian", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
    count = 0
    for path in sorted((SAMPLES / "bitmask_tests").glob("*.png")):
        with Image.open(path) as image:
            if image.mode != "RGBA":
                continue
        read = read_bitmask(path)
        again = map_of_labels(read.to_labels(classes), classes, read.index.shape, path.name)
        assert_same(read, again)
        write_bitmask(tmp_path / "again.png", again)
        pixels, written = (np.asarray(Image.open(one)) for one in (path, tmp_path / "again.png"))
        shown = read.index > 0
        np.testing.assert_array_equal(pixels[shown], written[shown])
        assert not written[~shown].any()
        count += len(read)
    assert count > 10
    (first, *_) = read_scalabel(SAMPLES / "ins_seg_rle_sample.json")
    for label in first["labels"][:3]:
        (alone,) = [map_of_labels([label], classes, (720, 1280), first["name"])]
        np.testing.assert_array_equal(alone.index > 0, decode_mask(label["rle"], 720, 1280))
