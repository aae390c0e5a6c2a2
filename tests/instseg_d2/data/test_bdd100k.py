import copy
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from pycocotools import mask as mask_util

from instseg_d2.data import DatasetError, register_bdd100k
from instseg_d2.data.bdd100k_categories import BDD100K_CLASSES, match_category
from instseg_d2.data.datasets.bdd100k import read_bdd100k
from instseg_d2.data.instance_maps import map_of_labels, read_bitmask, write_bitmask
from instseg_d2.data.run_lengths import encode_mask

SAMPLES = Path(__file__).resolve().parents[4] / "shared/data/label_samples/bdd100k"
needs_samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason="the sample labels are not on this machine")

HEIGHT, WIDTH = 30, 40


def rectangle(x0, y0, x1, y1):
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def label(identity, category, mask=None, **entries):
    rle = {} if mask is None else {"rle": encode_mask(mask)}
    return {"id": identity, "category": category, "attributes": {}, **rle, **entries}


CAR, MAN, BUS = rectangle(2, 3, 12, 9), rectangle(20, 5, 24, 15), rectangle(25, 16, 39, 29)
_FRAMES = [
    # Out of order, and of two videos.
    {"name": "b-0000002.jpg", "videoName": "b", "frameIndex": 1, "labels": [label("0", "car", CAR)]},
    {
        "name": "b-0000001.jpg",
        "videoName": "b",
        "frameIndex": 0,
        "labels": [
            label("00077", "pedestrian", MAN),
            label("0", "car", CAR),
            label("12", "other vehicle", BUS),
        ],
    },
    {"name": "a-0000001.jpg", "videoName": "a", "frameIndex": 0, "labels": None},
    {
        "name": "a-0000002.jpg",
        "videoName": "a",
        "frameIndex": 1,
        "labels": [
            label("x", "bus", BUS, attributes={"crowd": True}),
            label("y", "person", MAN, attributes={"occluded": True}),
            label("z", "trailer", rectangle(0, 0, 0, 0)),
        ],
    },
]


@pytest.fixture
def frames():
    return copy.deepcopy(_FRAMES)


@pytest.fixture
def write(tmp_path):
    """Writes the frames' images and a json for each video, and gives their folders."""

    def write_all(frames):
        labels, images = tmp_path / "rles", tmp_path / "images"
        labels.mkdir(exist_ok=True)
        for frame in frames:
            path = images / (frame.get("videoName") or "") / frame["name"]
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8))
        for video in {frame.get("videoName") for frame in frames}:
            content = {"frames": [frame for frame in frames if frame.get("videoName") == video]}
            (labels / f"{video}.json").write_text(json.dumps(content))
        return labels, images

    return write_all


def decoded(annotation):
    return mask_util.decode(annotation["segmentation"]).astype(bool)


def test_videos_in_order(frames, write):
    labels, images = write(frames)
    records, categories = read_bdd100k(labels, images)
    assert categories.names == BDD100K_CLASSES
    assert categories.indices == {number + 1: number for number in range(8)}
    keys = ("video_name", "video_id", "frame_index", "video_length", "image_id", "height", "width")
    assert [tuple(record[key] for key in keys) for record in records] == [
        # The size of a frame without labels is that of its video.
        ("a", 1, 0, 2, 1, HEIGHT, WIDTH),
        ("a", 1, 1, 2, 2, HEIGHT, WIDTH),
        ("b", 2, 0, 2, 3, HEIGHT, WIDTH),
        ("b", 2, 1, 2, 4, HEIGHT, WIDTH),
    ]
    assert records[3]["file_name"] == str(images / "b/b-0000002.jpg")


def test_labels_become_instances(frames, write):
    empty, first, second, third = (record["annotations"] for record in read_bdd100k(*write(frames))[0])
    assert empty == []
    # An instance without a pixel is none.
    assert [one["id"] for one in first] == ["x", "y"]
    assert [(one["instance_id"], BDD100K_CLASSES[one["category_id"]], one["iscrowd"]) for one in second] == [
        (1, "pedestrian", 0),
        (2, "car", 0),
        (3, "car", 1),  # a distractor
    ]
    assert [(one["instance_id"], one["iscrowd"]) for one in third] == [(2, 0)]
    for one, mask in zip((*second, *third, *first), (MAN, CAR, BUS, CAR, BUS, MAN), strict=True):
        np.testing.assert_array_equal(decoded(one), mask)
    assert second[1]["bbox"] == [2, 3, 10, 6]
    assert second[1]["bbox_mode"] == BoxMode.XYWH_ABS
    # A crowd, and an older name of a class.
    assert [(BDD100K_CLASSES[one["category_id"]], one["iscrowd"]) for one in first] == [("bus", 1), ("pedestrian", 0)]


def test_bitmasks_give_the_same_as_run_lengths(frames, write, tmp_path):
    frames = [frame for frame in frames if frame["videoName"] == "b"]
    for frame in frames:
        frame["labels"] = [{**one, "id": str(int(one["id"]) + 1)} for one in frame["labels"]]
        frame["labels"] = [one for one in frame["labels"] if one["category"] in BDD100K_CLASSES]
        frame["labels"].sort(key=lambda one: int(one["id"]))
    frames[1]["labels"][0]["attributes"] = {"ignored": True, "truncated": True}
    labels, images = write(frames)
    for frame in frames:
        path = tmp_path / "bitmasks/b" / Path(frame["name"]).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bitmask(path, map_of_labels(frame["labels"], BDD100K_CLASSES, (HEIGHT, WIDTH), "here"))
    expected, found = read_bdd100k(labels, images)[0], read_bdd100k(tmp_path / "bitmasks", images)[0]
    assert expected == found
    assert [one["iscrowd"] for one in found[0]["annotations"]] == [1, 0]


def test_boxes_without_masks(frames, write):
    box = {"x1": 3, "y1": 4.5, "x2": 10, "y2": 20}
    frames = [
        {"name": "1.jpg", "labels": [{"id": "9", "category": "traffic light", "box2d": box}]},
        {
            "name": "0.jpg",
            "labels": [
                {"category": "bike", "box2d": box, "attributes": None},
                {"category": "motor", "box2d": box, "attributes": {"ignored": True}},
            ],
        },
        {"name": "2.jpg"},
    ]
    records, _ = read_bdd100k(*write(frames))
    assert [Path(record["file_name"]).name for record in records] == ["0.jpg", "1.jpg", "2.jpg"]
    assert [(record["height"], record["width"], record["image_id"]) for record in records] == [
        (720, 1280, number) for number in (1, 2, 3)
    ]
    assert not any("video_id" in record for record in records)
    (bicycle, motorcycle), light, nothing = (record["annotations"] for record in records)
    assert light == nothing == []
    # The second corner is a pixel of the object.
    assert (bicycle["bbox"], bicycle["bbox_mode"]) == ([3, 4.5, 11, 21], BoxMode.XYXY_ABS)
    assert (bicycle["category_id"], bicycle["instance_id"], bicycle["iscrowd"]) == (7, 1, 0)
    assert (motorcycle["category_id"], motorcycle["instance_id"], motorcycle["iscrowd"]) == (6, 2, 1)
    assert "segmentation" not in bicycle
    lights, _ = read_bdd100k(*write(frames), [*BDD100K_CLASSES, "traffic light", "traffic sign"])
    assert [one["category_id"] for one in lights[1]["annotations"]] == [8]


def test_single_images_number_their_own_instances(write):
    frames = [{"name": f"{n}.jpg", "labels": [label("40", "car", CAR), label("3", "rider", MAN)]} for n in range(2)]
    records, _ = read_bdd100k(*write(frames))
    assert [[one["instance_id"] for one in record["annotations"]] for record in records] == [[1, 2], [1, 2]]


def test_size_of_the_frame_comes_first(frames, write):
    frames[0]["size"] = {"height": 90, "width": 40}
    with pytest.raises(DatasetError, match="the mask is \\[30, 40\\], the image \\[90, 40\\]"):
        read_bdd100k(*write(frames))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"category": "sofa"}, "b.json: label '00077' (number 0) of frame b-0000001.jpg: category 'sofa' is none of"),
        ({"rle": {"size": [HEIGHT, WIDTH], "counts": "~"}}, "frame b-0000001.jpg: 'counts' is '~'"),
        ({"rle": {"counts": "~"}}, "frame b-0000001.jpg: 'rle' is {'counts': '~'}"),
        ({"rle": None}, "it has neither 'rle' nor 'box2d'"),
        ({"rle": None, "poly2d": []}, "it has a polygon alone; take the labels of the folder 'rles'"),
        ({"rle": None, "box2d": {"x1": 3}}, "'box2d' is {'x1': 3}"),
        ({"rle": None, "box2d": [1, 2, 3, 4]}, "'box2d' is [1, 2, 3, 4]"),
        ({"id": "0"}, "label '0' (number 1) of frame b-0000001.jpg: the id occurs twice"),
    ],
)
def test_broken_label_is_named(frames, write, change, words):
    frames[1]["labels"][0].update(change)
    with pytest.raises(DatasetError) as caught:
        read_bdd100k(*write(frames))
    assert words in str(caught.value)


def test_broken_folders_are_named(frames, write, tmp_path):
    labels, images = write(frames)
    with pytest.raises(DatasetError, match="no labels .*/absent: neither a json file nor a folder"):
        read_bdd100k(tmp_path / "absent", images)
    with pytest.raises(DatasetError, match="images has no frames: no json file with some, and no bitmasks"):
        read_bdd100k(images, images)
    with pytest.raises(DatasetError, match=r"no image .*a-0000001.jpg \(frame a-0000001.jpg, the first of .*rles"):
        read_bdd100k(labels, tmp_path)
    (labels / "a.json").write_text("{")
    with pytest.raises(DatasetError, match="a.json"):
        read_bdd100k(labels, images)


def test_broken_bitmasks_are_named(frames, write, tmp_path):
    _, images = write(frames)
    folder = tmp_path / "bitmasks/b"
    folder.mkdir(parents=True)
    colors = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    colors[CAR] = [3, 0, 0, 9]  # RGBA
    colors[MAN] = [9, 0, 1, 9]
    cv2.imwrite(str(folder / "b-0000001.png"), cv2.cvtColor(colors, cv2.COLOR_RGBA2BGRA))
    with pytest.raises(DatasetError, match=r"b-0000001.png: category 9 \(channel R\) is not between 1 and 8"):
        read_bdd100k(folder.parent, images)
    colors[MAN] = 0
    cv2.imwrite(str(folder / "b-0000001.png"), cv2.cvtColor(colors, cv2.COLOR_RGBA2BGRA))
    assert len(read_bdd100k(folder.parent, images)[0]) == 1
    cv2.imwrite(str(folder / "b-0000009.png"), cv2.cvtColor(colors, cv2.COLOR_RGBA2BGRA))
    with pytest.raises(DatasetError, match=r"bitmask .*b-0000009.png has no image .*images/b/b-0000009"):
        read_bdd100k(folder.parent, images)


def test_categories():
    assert match_category("car", BDD100K_CLASSES) == (2, False)
    assert match_category("van", BDD100K_CLASSES) == (2, False)
    assert match_category("other person", BDD100K_CLASSES) == (0, True)
    assert match_category("sky", BDD100K_CLASSES) is None
    assert match_category("trailer", ["disc", "ring"]) is None
    assert match_category("ring", ["disc", "ring"]) == (1, False)


def test_registered_set(frames, write, name):
    labels, images = write(frames)
    dataset = register_bdd100k(name, labels, images)
    assert (dataset.num_videos, dataset.num_frames, dataset.num_classes) == (2, 4, 8)
    assert len(DatasetCatalog.get(name)) == 4
    metadata = MetadataCatalog.get(name)
    assert (metadata.json_file, metadata.evaluator_type) == (str(labels), "bdd100k_mots")
    assert metadata.thing_classes == list(BDD100K_CLASSES)
    assert register_bdd100k(name, labels, images, evaluator_type="none").num_frames == 4
    assert MetadataCatalog.get(name).evaluator_type == "none"
    with pytest.raises(DatasetError, match="is taken"):
        register_bdd100k(name, labels, labels)


@needs_samples
def test_sample_video_survives_the_way_through_bitmasks(tmp_path):
    content = json.loads((SAMPLES / "seg_track_sample.json").read_text())[:2]
    video = content[0]["videoName"]
    (tmp_path / "images" / video).mkdir(parents=True)
    for frame in content:
        (tmp_path / "images" / video / frame["name"]).touch()
    (tmp_path / "some.json").write_text(json.dumps(content))
    expected, _ = read_bdd100k(tmp_path / "some.json", tmp_path / "images")
    assert [record["frame_index"] for record in expected] == [0, 1]

    folder = tmp_path / "bitmasks" / video
    folder.mkdir(parents=True)
    for frame, record in zip(content, expected, strict=True):
        # The ids of the file begin with 0, which a bitmask cannot hold.
        numbers = {one["id"]: str(one["instance_id"]) for one in record["annotations"]}
        labels = [{**one, "id": numbers[one["id"]]} for one in frame["labels"]]
        objects = map_of_labels(labels, BDD100K_CLASSES, (720, 1280), frame["name"])
        write_bitmask(folder / Path(frame["name"]).with_suffix(".png"), objects)
    found, _ = read_bdd100k(tmp_path / "bitmasks", tmp_path / "images")

    def essence(record):
        keys = ("category_id", "iscrowd", "bbox", "segmentation")
        of_ids = {int(one["id"]): {key: one[key] for key in keys} for one in record["annotations"]}
        return record["frame_index"], record["file_name"], of_ids

    total = 0
    for one, other in zip(expected, found, strict=True):
        renamed = [{**annotation, "id": annotation["instance_id"]} for annotation in one["annotations"]]
        assert essence({**one, "annotations": renamed}) == essence(other)
        total += len(renamed)
    assert total > 20


@needs_samples
def test_sample_bitmasks_survive_the_way_through_run_lengths(tmp_path):
    names = ("example_bitmask", "to_rle_ins_seg_masks_0")
    (tmp_path / "images").mkdir()
    (tmp_path / "bitmasks").mkdir()
    for name in names:
        (tmp_path / "images" / f"{name}.jpg").touch()
        (tmp_path / "bitmasks" / f"{name}.png").symlink_to(SAMPLES / "bitmask_tests" / f"{name}.png")
    records, _ = read_bdd100k(tmp_path / "bitmasks", tmp_path / "images")
    for name, record in zip(names, records, strict=True):
        original = read_bitmask(SAMPLES / "bitmask_tests" / f"{name}.png")
        assert len(record["annotations"]) == len(original) > 2
        for number, annotation in enumerate(record["annotations"]):
            assert (annotation["id"], annotation["category_id"]) == (
                str(original.ids[number]),
                original.classes[number],
            )
            np.testing.assert_array_equal(decoded(annotation), original.index == number + 1)


@needs_samples
def test_sample_of_single_images(tmp_path):
    (tmp_path / "80985724-bc3fece0.jpg").touch()
    (record,), _ = read_bdd100k(SAMPLES / "ins_seg_rle_sample.json", tmp_path)
    assert [BDD100K_CLASSES[one["category_id"]] for one in record["annotations"]] == [
        *("car", "truck", "pedestrian", "pedestrian", "car", "bicycle", "rider", "car")
    ]
    assert (record["height"], record["width"]) == (720, 1280)
    assert "video_id" not in record
