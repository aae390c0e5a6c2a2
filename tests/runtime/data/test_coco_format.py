import json
import logging

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import convert_to_coco_json, load_coco_json, register_coco_instances
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from detectron2.data.datasets.coco import convert_to_coco_dict
from detectron2.structures import BoxMode

SQUARE = [10, 10, 20, 10, 20, 20, 10, 20]


def content(*annotations, categories=((3, "cat"), (7, "dog")), images=((5, 40, 30),)):
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "height": h, "width": w} for i, h, w in images],
        "annotations": list(annotations),
        "categories": [{"id": i, "name": name} for i, name in categories],
    }


def annotation(**changes):
    base = {
        "id": 1,
        "image_id": 5,
        "category_id": 7,
        "bbox": [10, 10, 10, 10],
        "iscrowd": 0,
        "segmentation": [SQUARE],
    }
    return {key: value for key, value in {**base, **changes}.items() if value is not ...}


@pytest.fixture
def write(tmp_path):
    def _write(data):
        path = tmp_path / "instances.json"
        path.write_text(data if isinstance(data, str) else json.dumps(data))
        return str(path)

    return _write


@pytest.fixture
def name():
    yield "format_test_set"
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.data.pop("format_test_set", None)


@pytest.fixture
def warnings_seen(caplog, monkeypatch):
    # setup_logger, which another test may have called, keeps the messages from the root logger.
    monkeypatch.setattr(logging.getLogger("detectron2"), "propagate", True)
    return caplog


def test_record_fields_and_contiguous_categories(write, name):
    data = content(
        annotation(area=100.0, score=0.5),
        annotation(id=2, category_id=3, iscrowd=1),
        categories=((7, "dog"), (3, "cat")),
        images=((9, 8, 6), (5, 40, 30)),
    )
    records = load_coco_json(write(data), "images", name, extra_annotation_keys=["score"])
    assert [r["image_id"] for r in records] == [5, 9]
    assert records[0]["file_name"] == "images/5.png"
    assert (records[0]["height"], records[0]["width"]) == (40, 30)
    assert records[0]["annotations"][0] == {
        "iscrowd": 0,
        "bbox": [10, 10, 10, 10],
        "category_id": 1,
        "score": 0.5,
        "segmentation": [SQUARE],
        "bbox_mode": BoxMode.XYWH_ABS,
    }
    assert records[0]["annotations"][1]["category_id"] == 0
    assert records[1]["annotations"] == []
    assert MetadataCatalog.get(name).thing_classes == ["cat", "dog"]
    assert MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id == {3: 0, 7: 1}


def test_without_a_name_category_ids_stay(write):
    records = load_coco_json(write(content(annotation())), "")
    assert records[0]["annotations"][0]["category_id"] == 7


def test_zero_area_boxes_and_missing_annotations_load(write):
    records = load_coco_json(write(content(annotation(bbox=[3, 4, 0, 0], segmentation=[]))), "")
    assert records[0]["annotations"][0]["bbox"] == [3, 4, 0, 0]
    assert "segmentation" not in records[0]["annotations"][0]
    data = content()
    del data["annotations"]
    assert load_coco_json(write(data), "")[0]["annotations"] == []


def test_uncompressed_rle_is_compressed(write):
    mask = np.zeros((40, 30), dtype=np.uint8, order="F")
    mask[5:9, 2:6] = 1
    edges = np.flatnonzero(np.diff(mask.flatten(order="F"), prepend=0, append=0))
    counts = np.diff([0, *edges, mask.size]).tolist()
    rle = {"size": [40, 30], "counts": counts}
    records = load_coco_json(write(content(annotation(segmentation=rle))), "")
    assert np.array_equal(mask_util.decode(records[0]["annotations"][0]["segmentation"]), mask)


def test_keypoints_move_to_pixel_centers(write):
    records = load_coco_json(write(content(annotation(keypoints=[3, 4, 2, 0, 0, 0]))), "")
    assert records[0]["annotations"][0]["keypoints"] == [3.5, 4.5, 2, 0.5, 0.5, 0]


def test_invalid_polygons_are_left_out_with_a_warning(write, warnings_seen):
    data = content(
        annotation(segmentation=[[1, 2, 3, 4], SQUARE]),
        annotation(id=8, segmentation=[[1, 2, 3, 4, 5, 6, 7]]),
        annotation(id=9, segmentation=[[1, 2, 3, 4]]),
    )
    with warnings_seen.at_level(logging.WARNING):
        (record,) = load_coco_json(write(data), "")
    assert [a["segmentation"] for a in record["annotations"]] == [[SQUARE]]
    assert "2 instances" in warnings_seen.text


def test_annotations_of_unknown_images_are_left_out_with_a_warning(write, warnings_seen):
    with warnings_seen.at_level(logging.WARNING):
        (record,) = load_coco_json(write(content(annotation(), annotation(id=2, image_id=77))), "")
    assert len(record["annotations"]) == 1
    assert "instances.json" in warnings_seen.text


def test_duplicate_annotation_ids_are_refused(write):
    with pytest.raises((ValueError, AssertionError), match="not unique"):
        load_coco_json(write(content(annotation(), annotation())), "")


def test_unknown_category_is_refused(write, name):
    with pytest.raises(KeyError, match="category_id"):
        load_coco_json(write(content(annotation(category_id=4))), "", name)


@pytest.mark.bundled_only
def test_missing_file_says_what_to_do():
    with pytest.raises(FileNotFoundError, match="'nowhere/a.json' does not exist.*DETECTRON2_DATASETS"):
        load_coco_json("nowhere/a.json", "")


@pytest.mark.bundled_only
@pytest.mark.parametrize(
    ("data", "pattern"),
    [
        ('{"images": [', "instances.json.*not valid JSON"),
        ("[1, 2]", "holds a list"),
        ({"images": []}, "no list 'categories'.*it has: images"),
        (content(categories=()), "'categories'.*is empty"),
        ({"categories": [{"id": 1, "name": "a"}], "annotations": []}, "no list 'images'"),
    ],
)
def test_files_in_another_format_are_named(write, name, data, pattern):
    with pytest.raises(ValueError, match=pattern):
        load_coco_json(write(data), "", name)


@pytest.mark.bundled_only
@pytest.mark.parametrize(
    ("changes", "error", "pattern"),
    [
        ({"category_id": 4}, KeyError, "category_id 4 is not in"),
        ({"category_id": ...}, KeyError, "'category_id' is missing"),
        ({"bbox": []}, ValueError, "'bbox' must be"),
        ({"bbox": None}, ValueError, "'bbox' must be"),
        ({"ignore": 1}, ValueError, "'ignore' is not supported"),
        ({"segmentation": SQUARE}, ValueError, "list of polygons"),
        ({"segmentation": {"size": [30, 40], "counts": "abc"}}, ValueError, r"\[30, 40\].*\[40, 30\]"),
        ({"segmentation": {"size": [40, 30], "counts": [5, 6]}}, ValueError, "add up to 11"),
        ({"segmentation": {"counts": [5, 6]}}, ValueError, "'size' and 'counts'"),
    ],
)
def test_broken_annotations_are_named(write, name, changes, error, pattern):
    data = content(annotation(), annotation(id=21, **changes))
    with pytest.raises(error, match=pattern) as caught:
        load_coco_json(write(data), "", name)
    assert "instances.json" in str(caught.value)
    assert "annotation 21 of image 5 (5.png)" in str(caught.value)


@pytest.mark.bundled_only
def test_missing_keys_are_named(write):
    data = content(annotation(image_id=...))
    with pytest.raises(KeyError, match="annotation 1 .entry 0 of 'annotations'. has no 'image_id'"):
        load_coco_json(write(data), "")
    data = content()
    del data["images"][0]["height"]
    with pytest.raises(KeyError, match="image 5 has no 'height'"):
        load_coco_json(write(data), "")


def test_conversion_and_loading_are_inverse(tmp_path, name):
    mask = np.zeros((40, 30), dtype=np.uint8, order="F")
    mask[5:9, 2:6] = 1
    record = {"file_name": "a.png", "image_id": 4, "height": 40, "width": 30}
    xyxy, xywh = BoxMode.XYXY_ABS, BoxMode.XYWH_ABS
    square = {"bbox": [10, 10, 10, 10], "bbox_mode": xywh, "category_id": 0, "segmentation": [SQUARE]}
    record["annotations"] = [
        {
            "bbox": np.array([2, 5, 6, 9]),
            "bbox_mode": xyxy,
            "category_id": 1,
            "segmentation": mask_util.encode(mask),
        },
        {**square, "iscrowd": 1},
        {"bbox": [1, 2, 4, 8], "bbox_mode": xyxy, "category_id": 0},
    ]
    DatasetCatalog.register(name, lambda: [record])
    MetadataCatalog.get(name).set(thing_classes=["a", "b"], thing_dataset_id_to_contiguous_id={5: 0, 6: 1})

    converted = convert_to_coco_dict(name)["annotations"]
    assert [a["area"] for a in converted] == [16.0, 100.0, 18.0]
    assert [a["category_id"] for a in converted] == [6, 5, 5]
    assert [a["id"] for a in converted] == [1, 2, 3]

    path = str(tmp_path / "folder" / "cache.json")
    convert_to_coco_json(name, path)
    (loaded,) = load_coco_json(path, "")
    assert [a["bbox"] for a in loaded["annotations"]] == [[2, 5, 4, 4], [10, 10, 10, 10], [1, 2, 3, 6]]
    assert [a["iscrowd"] for a in loaded["annotations"]] == [0, 1, 0]
    assert np.array_equal(mask_util.decode(loaded["annotations"][0]["segmentation"]), mask)

    record["annotations"] = []
    convert_to_coco_json(name, path)
    assert len(load_coco_json(path, "")[0]["annotations"]) == 3  # from the cache
    convert_to_coco_json(name, path, allow_cached=False)
    assert load_coco_json(path, "")[0]["annotations"] == []


def test_registering(write, name):
    path = write(content(annotation()))
    register_coco_instances(name, {"note": 1}, path, "images")
    metadata = MetadataCatalog.get(name)
    assert (metadata.json_file, metadata.image_root, metadata.evaluator_type) == (path, "images", "coco")
    assert metadata.note == 1
    assert DatasetCatalog.get(name)[0]["file_name"] == "images/5.png"


def test_builtin_coco():
    assert "coco_2017_val_100" in DatasetCatalog
    metadata = MetadataCatalog.get("coco_2014_minival")
    assert metadata.json_file.endswith("coco/annotations/instances_minival2014.json")
    assert metadata.image_root.endswith("coco/val2014")
    assert len(metadata.thing_classes) == 80
    assert metadata.thing_classes[79] == "toothbrush"
    assert metadata.thing_dataset_id_to_contiguous_id[90] == 79
    assert metadata.thing_colors[0] == [220, 20, 60]
    assert len(COCO_CATEGORIES) == 133
    assert MetadataCatalog.get("coco_2017_test-dev").json_file.endswith("image_info_test-dev2017.json")
