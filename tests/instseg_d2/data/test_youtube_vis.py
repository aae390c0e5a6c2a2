import copy
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from pycocotools import mask as mask_util

from instseg_d2.data import DatasetError, register_youtube_vis
from instseg_d2.data.datasets.youtube_vis import YTVIS_2019_CLASSES, YTVIS_2021_CLASSES, read_youtube_vis

SAMPLES = Path(__file__).resolve().parents[4] / "shared/data/video_multiobj"

# Columns 40 to 49, rows 20 to 31 of a frame of 40 x 60.
_RUNS = [1620] + [12, 28] * 9 + [12, 408]
_MASK = {"size": [40, 60], "counts": _RUNS}
_TEXT = mask_util.frPyObjects(_MASK, 40, 60)["counts"].decode()
_SQUARE = [[5.0, 5.0, 15.0, 5.0, 15.0, 15.0, 5.0, 15.0]]
_NOTHING = {"size": [40, 60], "counts": [2400]}
_CONTENT = {
    "categories": [{"id": 9, "name": "cup"}, {"id": 4, "name": "pear"}],
    "videos": [
        {"id": 0, "height": 40, "width": 60, "length": 3, "file_names": ["v/0.png", "v/1.png", "v/2.png"]},
        {"id": 17, "height": 30, "width": 20, "length": 1, "file_names": ["w/0.png"], "name": "one frame"},
        {"id": 5, "height": 40, "width": 60, "file_names": ["x/0.png", "x/1.png"]},
    ],
    "annotations": [
        {
            "id": 0,
            "video_id": 0,
            "category_id": 9,
            "segmentations": [_MASK, None, {"size": [40, 60], "counts": _TEXT}],
            "bboxes": [[40.0, 20.0, 10.0, 12.0], None, [39.0, 19.0, 12.0, 14.0]],
            "areas": [120, None, 120],
            "depth": 1,
            "covered": [0.25, 1.0, 0.5],
            "amodal_segmentations": [_MASK, _MASK, _MASK],
        },
        # All null, as some tracks of the release are.
        {"id": 3, "video_id": 0, "category_id": 4, "segmentations": [None] * 3, "bboxes": [None] * 3},
        {"id": 8, "video_id": 0, "category_id": 4, "iscrowd": 1, "segmentations": [_NOTHING, [], _SQUARE]},
    ],
}


@pytest.fixture
def content():
    """A video of three frames with three tracks, one of one frame and one of two without any; ids of all kinds."""
    return copy.deepcopy(_CONTENT)


@pytest.fixture
def write(tmp_path, content):
    """Writes frames and a json, and gives their paths."""
    for video in content["videos"]:
        for file_name in video["file_names"]:
            (tmp_path / "frames" / file_name).parent.mkdir(parents=True, exist_ok=True)
            image = np.random.default_rng(0).integers(0, 256, (video["height"], video["width"], 3), dtype=np.uint8)
            cv2.imwrite(str(tmp_path / "frames" / file_name), image)

    def write_json(content):
        (tmp_path / "tracks.json").write_text(json.dumps(content))
        return tmp_path / "tracks.json", tmp_path / "frames"

    return write_json


def test_frames_become_records(content, write):
    path, images = write(content)
    records, categories = read_youtube_vis(path, images)
    assert categories.names == ("pear", "cup")
    assert categories.indices == {4: 0, 9: 1}
    keys = ("video_id", "frame_index", "video_length", "video_name", "image_id", "height", "width")
    assert [tuple(record[key] for key in keys) for record in records] == [
        (0, 0, 3, "v", 1, 40, 60),
        (0, 1, 3, "v", 2, 40, 60),
        (0, 2, 3, "v", 3, 40, 60),
        (17, 0, 1, "one frame", 4, 30, 20),
        (5, 0, 2, "x", 5, 40, 60),
        (5, 1, 2, "x", 6, 40, 60),
    ]
    assert records[2]["file_name"] == str(images / "v/2.png")
    assert [len(record["annotations"]) for record in records] == [1, 0, 2, 0, 0, 0]


def test_tracks_become_instances_with_ids_from_one_on(content, write):
    records, _ = read_youtube_vis(*write(content))
    first, (last, crowd) = records[0]["annotations"][0], records[2]["annotations"]
    assert (first["id"], first["instance_id"], first["category_id"], first["iscrowd"]) == (0, 1, 1, 0)
    assert first["bbox_mode"] == BoxMode.XYWH_ABS
    assert (first["depth"], first["covered"], last["covered"]) == (1, 0.25, 0.5)
    expected = np.zeros((40, 60), bool)
    expected[20:32, 40:50] = True
    for mask in (first["segmentation"], last["segmentation"], first["amodal_segmentation"]):
        np.testing.assert_array_equal(mask_util.decode(mask).astype(bool), expected)
    # The file's box where there is one, else that of the mask.
    assert (first["bbox"], last["bbox"]) == ([40, 20, 10, 12], [39, 19, 12, 14])
    assert (crowd["instance_id"], crowd["category_id"], crowd["iscrowd"]) == (3, 0, 1)
    assert (crowd["segmentation"], crowd["bbox"]) == (_SQUARE, [5, 5, 10, 10])
    assert "depth" not in crowd
    assert "amodal_segmentation" not in crowd


def test_classes_are_matched_by_name(content, write):
    path, images = write(content)
    records, categories = read_youtube_vis(path, images, ["cup", "pear"])
    assert categories.indices == {9: 0, 4: 1}
    assert records[0]["annotations"][0]["category_id"] == 0
    with pytest.raises(DatasetError, match="categories of the set are cup, plum, but the file has pear, cup"):
        read_youtube_vis(path, images, ["cup", "plum"])


def test_withheld_annotations_are_absent_from_the_records(content, write):
    for change in ({"annotations": None}, {}):
        withheld = {key: value for key, value in content.items() if key != "annotations"} | change
        records, _ = read_youtube_vis(*write(withheld))
        assert len(records) == 6
        assert not any("annotations" in record for record in records)


def changed(*path_and_value):
    *path, key, value = path_and_value

    def change(content):
        for step in path:
            content = content[step]
        content[key] = value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (changed("annotations", 0, "video_id", 1), "unknown-video: annotation 0 of video 1: no video with this id"),
        (changed("annotations", 2, "segmentations", [None]), "annotation 8 of video 0: 1 'segmentations' for 3 frames"),
        (changed("annotations", 0, "covered", [0.5]), "annotation 0 of video 0: 1 'covered' for 3 frames"),
        (changed("annotations", 0, "segmentations", 2, "counts", "~"), "bad-rle: annotation 0 of video 0, frame 2"),
        (
            changed("annotations", 0, "amodal_segmentations", 1, {"size": [60, 40], "counts": [2400]}),
            "rle-size: annotation 0 of video 0, frame 1: the mask is [60, 40]",
        ),
        (changed("annotations", 0, "areas", 120), "annotations[0] (id 0): of a wrong type: 'areas'"),
        (changed("annotations", 0, "segmentations", None), "annotations[0] (id 0): of a wrong type: 'segmentations'"),
        (changed("annotations", 2, "id", 3), "duplicate-annotation-id: annotation 3 of video 0"),
        (changed("annotations", 0, "category_id", 1), "annotation 0 of video 0: category_id 1"),
        (changed("videos", 2, "id", 17), "duplicate-video-id: video id 17"),
        (changed("videos", 1, "file_names", []), "video 17: 'file_names' is []"),
        (changed("videos", []), "'videos' is empty"),
        (changed("annotations", 0, "segmentations", 0, 7), "bad-segmentation: annotation 0 of video 0, frame 0"),
    ],
)
def test_broken_file_names_itself_the_video_and_the_annotation(content, write, change, words):
    change(content)
    with pytest.raises(DatasetError) as caught:
        read_youtube_vis(*write(content))
    assert "tracks.json cannot be used" in str(caught.value)
    assert words in str(caught.value)


def test_other_files_are_told_from_videos(content, write):
    del content["videos"]
    with pytest.raises(DatasetError, match="no list 'videos' at the top level; it has"):
        read_youtube_vis(*write(content))
    with pytest.raises(DatasetError, match="no list 'videos' at the top level; it is \\[\\]"):
        read_youtube_vis(*write([]))


def test_wrong_root_shows_what_is_there(content, write):
    path, images = write(content)
    with pytest.raises(DatasetError, match=r"no image .*/v/v/0.png \(frame 0 of video 0, the first of .*tracks.json"):
        read_youtube_vis(path, images / "v")


def test_registered_set(content, write, name):
    path, images = write(content)
    dataset = register_youtube_vis(name, path, images, fps=6)
    assert (dataset.num_videos, dataset.num_frames, dataset.num_classes) == (3, 6, 2)
    metadata = MetadataCatalog.get(name)
    assert (metadata.json_file, metadata.image_root) == (str(path), str(images))
    assert (metadata.evaluator_type, metadata.thing_classes, metadata.fps) == ("youtube_vis", ["pear", "cup"], 6)
    assert metadata.thing_dataset_id_to_contiguous_id == {4: 0, 9: 1}
    assert len(DatasetCatalog.get(name)) == 6

    content["videos"].pop()
    write(content)
    assert register_youtube_vis(name, path, images, thing_classes=["cup", "pear"]).num_frames == 4
    assert MetadataCatalog.get(name).thing_classes == ["cup", "pear"]
    with pytest.raises(DatasetError, match="is taken"):
        register_youtube_vis(name, path, path.parent)


def test_class_lists_of_the_releases():
    assert len(set(YTVIS_2019_CLASSES)) == len(set(YTVIS_2021_CLASSES)) == 40
    assert list(YTVIS_2021_CLASSES) == sorted(YTVIS_2021_CLASSES)
    assert set(YTVIS_2019_CLASSES) - set(YTVIS_2021_CLASSES) == {"ape", "eagle", "hand", "owl", "sedan"}


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the sample videos are not on this machine")
def test_real_videos():
    for split, videos, frames, tracks in (("train", 2, 95, 12), ("val", 1, 66, 3)):
        records, categories = read_youtube_vis(SAMPLES / f"annotations/ytvis_{split}.json", SAMPLES / "JPEGImages")
        assert categories.names == ("person", "dog", "penguin", "backpack")
        assert len({record["video_id"] for record in records}) == videos
        assert len(records) == frames
        ids = {(record["video_id"], one["instance_id"]) for record in records for one in record["annotations"]}
        assert len(ids) == tracks
        assert min(number for _, number in ids) == 1
