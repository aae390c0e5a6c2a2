import json

import numpy as np
import pytest

from instseg_d2.data import DatasetError
from instseg_d2.data.instance_maps import InstanceMap, write_bitmask
from instseg_d2.evaluation.mots_files import BitmaskFolder, RleFrames, open_frames

CLASSES = ("cup", "pear")
SIZE = {"height": 2, "width": 3}


def instances(identity=5):
    index = np.array([[0, 1, 1], [0, 0, 2]], np.int32)
    return InstanceMap(index, np.array([identity, identity + 1]), np.array([1, 0]), np.array([0, 1]))


def frame(number=0, video="a", labels=None, **more):
    labels = instances().to_labels(CLASSES) if labels is None else labels
    return {"name": f"{video}{number}", "videoName": video, "frameIndex": number, "labels": labels, **more}


def test_bitmasks_by_the_number_in_their_names(tmp_path):
    for video, names in {"a": ("a-0000002", "a-0000010", "a-0000009"), "b": ("x", "y"), "c": ("1", "01")}.items():
        (tmp_path / video).mkdir()
        for identity, name in enumerate(names, start=1):
            write_bitmask(tmp_path / video / f"{name}.png", instances(identity))
    folder = open_frames(tmp_path, CLASSES)
    assert isinstance(folder, BitmaskFolder)
    # where the numbers do not tell frames apart, these are counted
    assert folder.frames == {"a": [1, 8, 9], "b": [0, 1], "c": [0, 1]}
    assert [folder.read("a", number).ids[0] for number in (1, 8, 9)] == [1, 3, 2]
    with pytest.raises(DatasetError, match="no bitmasks in .*nothing: expected is a folder for each video"):
        BitmaskFolder(tmp_path / "nothing")


def test_one_file_and_a_folder_of_files(tmp_path):
    (tmp_path / "all.json").write_text(json.dumps({"frames": [frame(1), frame(0), frame(0, "b")]}))
    (tmp_path / "rles").mkdir()
    for name, content in {"a": [frame(0), frame(1)], "b": [frame(0, "b")]}.items():
        (tmp_path / "rles" / f"{name}.json").write_text(json.dumps(content))
    for source in (tmp_path / "all.json", tmp_path / "rles"):
        read = open_frames(source, CLASSES)
        assert read.frames == {"a": [0, 1], "b": [0]}
        np.testing.assert_array_equal(read.read("a", 1).index, instances().index)
        assert read.read("b", 0).ignored.tolist() == [False, True]
    with pytest.raises(DatasetError, match="there is no .*absent"):
        open_frames(tmp_path / "absent", CLASSES)


def test_frames_without_labels_may_say_their_size():
    read = RleFrames([frame(0, labels=[]), frame(1, labels=[], size=SIZE), {**frame(2), "labels": None}], CLASSES)
    assert [read.read("a", number).index.shape for number in range(3)] == [(0, 0), (2, 3), (0, 0)]
    assert not read.has_scores


def test_identities_that_are_no_numbers_are_numbered_in_each_video():
    labels = instances().to_labels(CLASSES)
    labels[0]["id"], labels[1]["id"] = "x", "7"
    read = RleFrames([frame(0, labels=labels), frame(1, labels=labels[:1]), frame(0, "b")], CLASSES)
    assert [read.read("a", number).ids.tolist() for number in (0, 1)] == [[2, 1], [2]]
    assert read.read("b", 0).ids.tolist() == [5, 6]


def test_scores():
    labels = instances().to_labels(CLASSES, {5: 0.25, 6: 0.5})
    assert RleFrames([frame(0, labels=labels), frame(1, labels=[])], CLASSES).has_scores
    assert not RleFrames([frame(0, labels=labels), frame(1)], CLASSES).has_scores


def test_frames_that_cannot_be_used():
    with pytest.raises(DatasetError, match="the frames has no frames"):
        RleFrames([], CLASSES)
    with pytest.raises(DatasetError, match="frame 'a0' has no 'videoName' and 'frameIndex'"):
        RleFrames([frame(frameIndex=None)], CLASSES)
    with pytest.raises(DatasetError, match="frame 0 of video a occurs twice"):
        RleFrames([frame(), frame()], CLASSES)
    read = RleFrames([frame(size={"height": 3, "width": 3})], CLASSES)
    with pytest.raises(DatasetError, match="frame 0 of video a: every label needs an 'rle' .* the same 'size'"):
        read.read("a", 0)
    labels = [{"id": "1", "category": "cup", "poly2d": []}]
    with pytest.raises(DatasetError, match="every label needs an 'rle'"):
        RleFrames([frame(labels=labels)], CLASSES).read("a", 0)
