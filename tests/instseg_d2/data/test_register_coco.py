import copy
import json
import logging

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from instseg_d2.data import DatasetError, register_coco, validate_coco, write_occshapes


def kinds(problems):
    return {problem.kind: problem.count for problem in problems}


def test_registered_set_is_served_by_the_catalogs(content, write, name):
    path, root = write(content)
    dataset = register_coco(name, path, root)
    assert dataset.num_classes == 2
    assert dataset.thing_classes == ("pear", "cup")
    assert dataset.num_images == 2
    assert (dataset.name, dataset.json_file, dataset.image_root) == (name, str(path), str(root))
    metadata = MetadataCatalog.get(name)
    assert metadata.thing_classes == ["pear", "cup"]
    assert metadata.evaluator_type == "coco"
    assert (metadata.json_file, metadata.image_root) == (str(path), str(root))
    # Before the records are loaded too: evaluators ask for it.
    assert metadata.thing_dataset_id_to_contiguous_id == {3: 0, 7: 1}
    first, second = DatasetCatalog.get(name)
    assert first["file_name"] == str(root / "a.png")
    assert [a["category_id"] for a in first["annotations"]] == [1, 0]
    assert [a["id"] for a in first["annotations"]] == [11, 12]
    assert second["image_id"] == 2
    assert metadata.thing_dataset_id_to_contiguous_id == {3: 0, 7: 1}


def test_extra_keys_and_metadata_are_kept(content, write, name):
    content["annotations"][0]["covered"] = 0.25
    register_coco(name, *write(content), extra_annotation_keys=["covered"], thing_colors=[(1, 2, 3), (4, 5, 6)])
    assert DatasetCatalog.get(name)[0]["annotations"][0]["covered"] == 0.25
    assert MetadataCatalog.get(name).thing_colors == [(1, 2, 3), (4, 5, 6)]


def test_same_name_again(content, write, name):
    path, root = write(content)
    first = register_coco(name, path, root)
    assert register_coco(name, path, root) is first
    other, _ = write(content, "other.json")
    with pytest.raises(DatasetError, match=rf"'{name}' is taken: json_file={path}"):
        register_coco(name, other, root)

    content["categories"].append({"id": 9, "name": "lemon"})
    write(content)
    changed = register_coco(name, path, root)
    assert changed.thing_classes == ("pear", "cup", "lemon")
    assert MetadataCatalog.get(name).thing_classes == ["pear", "cup", "lemon"]
    assert len(DatasetCatalog.get(name)) == 2


def test_registration_by_someone_else_stays(content, write, name):
    path, root = write(content)
    DatasetCatalog.register(name, lambda: ["theirs"])
    MetadataCatalog.get(name).set(json_file=str(path), image_root=str(root))
    assert register_coco(name, path, root).num_classes == 2
    assert DatasetCatalog.get(name) == ["theirs"]


def test_boxes_alone_register(content, write, name):
    for annotation in content["annotations"]:
        del annotation["segmentation"]
    assert register_coco(name, *write(content)).num_classes == 2
    assert all("segmentation" not in a for record in DatasetCatalog.get(name) for a in record["annotations"])
    (problem,) = validate_coco(content)
    assert (problem.kind, problem.count, problem.fatal) == ("annotations-without-mask", 3, False)


def test_empty_images_and_zero_boxes_are_counted_and_told_once(content, write, name, caplog):
    content["images"] += [{"id": n, "file_name": "a.png", "height": 40, "width": 60} for n in (3, 4)]
    content["annotations"][0]["bbox"] = [10, 5, 0, 10]
    with caplog.at_level(logging.INFO, logger="instseg_d2"):
        register_coco(name, *write(content))
    (message,) = [record.getMessage() for record in caplog.records if record.name.startswith("instseg_d2")]
    assert "images-without-instances: 2 times, first: image 3" in message
    assert "zero-area-box: annotation 11 of image 1: 'bbox' is [10, 5, 0, 10]" in message


def test_clean_file_has_no_problems(content):
    before = copy.deepcopy(content)
    assert validate_coco(content) == []
    assert content == before


def test_generated_set_has_no_problems_and_loads(tmp_path, name):
    write_occshapes(tmp_path / "set", images=4, progress=False)
    content = json.loads((tmp_path / "set/annotations.json").read_text())
    assert validate_coco(content, image_root=tmp_path / "set/images") == []
    dataset = register_coco(
        name,
        tmp_path / "set/annotations.json",
        tmp_path / "set/images",
        extra_annotation_keys=["depth", "covered"],
    )
    assert dataset.num_classes == 10
    records = DatasetCatalog.get(name)
    assert sum(len(record["annotations"]) for record in records) == len(content["annotations"])
    assert [a["depth"] for a in records[0]["annotations"]] == list(range(len(records[0]["annotations"])))


def polygon(numbers):
    def change(content):
        content["annotations"][0]["segmentation"].append(numbers)

    return change


def setting(*path_and_value):
    *path, key, value = path_and_value

    def change(content):
        for step in path:
            content = content[step]
        content[key] = value

    return change


def removing(*path):
    *path, key = path

    def change(content):
        for step in path:
            content = content[step]
        del content[key]

    return change


BROKEN = {
    "no categories": (removing("categories"), r"missing-key: no list 'categories' .*'annotations', 'images'"),
    "no images": (removing("images"), r"missing-key: no list 'images'"),
    "categories are a dict": (setting("categories", {}), r"missing-key: no list 'categories' at the top level; it is"),
    "empty categories": (setting("categories", []), r"bad-category: 'categories' is empty"),
    "empty images": (setting("images", []), r"bad-image: 'images' is empty"),
    "category without name": (removing("categories", 1, "name"), r"bad-category: categories\[1\] is \{'id': 3\}"),
    "category twice": (setting("categories", 1, "id", 7), r"duplicate-category-id: category id 7 \('pear'\)"),
    "unknown category": (
        setting("annotations", 1, "category_id", 0),
        r"unknown-category: annotation 12 of image 1: category_id 0 is not in 'categories' \[3, 7\]",
    ),
    "category as text": (
        setting("annotations", 1, "category_id", "3"),
        r"unknown-category: annotation 12 of image 1: category_id '3'",
    ),
    "short polygon": (
        polygon([1.0, 2.0, 3.0, 4.0]),
        r"bad-polygon: annotation 11 of image 1: 'segmentation'\[1\] has 4 numbers",
    ),
    "odd polygon": (
        polygon([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]),
        r"bad-polygon: annotation 11 of image 1: 'segmentation'\[1\] has 7 numbers",
    ),
    "infinite polygon": (polygon([1.0, 2.0, 3.0, 4.0, 5.0, float("nan")]), r"bad-segmentation: annotation 11"),
    "flat polygon": (
        setting("annotations", 0, "segmentation", [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
        r"bad-segmentation: 6 times, first: annotation 11 of image 1: 'segmentation'\[0\] is 1.0",
    ),
    "turned mask": (
        setting("annotations", 1, "segmentation", "size", [60, 40]),
        r"rle-size: annotation 12 of image 1: the mask is \[60, 40\], the image \[40, 60\]",
    ),
    "short run lengths": (
        setting("annotations", 1, "segmentation", "counts", [10, 10]),
        r"bad-rle: annotation 12 of image 1: 'counts' sum to 20 of 40 x 60 pixels",
    ),
    "mask without size": (removing("annotations", 1, "segmentation", "size"), r"bad-rle: annotation 12"),
    "unknown image": (
        setting("annotations", 2, "image_id", 99),
        r"unknown-image: annotation 13 of image 99: no image with this id",
    ),
    "image twice": (setting("images", 1, "id", 1), r"duplicate-image-id: image id 1 \(images\[1\]\)"),
    "image ids of two types": (setting("images", 1, "id", "2"), r"bad-image: image '2': 'id' is of another type"),
    "image without height": (removing("images", 1, "height"), r"bad-image: image 2: no 'height'"),
    "width as text": (setting("images", 1, "width", "60"), r"bad-image: image 2: 'width' is '60'"),
    "annotation twice": (
        setting("annotations", 1, "id", 11),
        r"duplicate-annotation-id: annotation 11 of image 1: the id occurs again",
    ),
    "annotation without image": (removing("annotations", 1, "image_id"), r"annotations\[1\] \(id 12\): no 'image_id'"),
    "no box": (removing("annotations", 1, "bbox"), r"bad-annotation: annotations\[1\] \(id 12\): no 'bbox'"),
    "empty box": (setting("annotations", 1, "bbox", []), r"bad-box: annotation 12 of image 1: 'bbox' is \[\]"),
    "negative box": (setting("annotations", 1, "bbox", [5, 5, -1, 2]), r"bad-box: annotation 12 of image 1"),
    "ignore flag": (setting("annotations", 1, "ignore", 1), r"ignore-flag: annotation 12 of image 1"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_file_says_what_and_where(case, content, write, name):
    change, message = BROKEN[case]
    change(content)
    path, root = write(content)
    with pytest.raises(DatasetError, match=message) as caught:
        register_coco(name, path, root)
    assert str(caught.value).startswith(f"{path} cannot be used:")
    assert " -> " in str(caught.value)
    assert name not in DatasetCatalog.list()


REMARKS = {
    "duplicate-category-name": setting("categories", 1, "name", "cup"),
    "annotation-id-zero": setting("annotations", 1, "id", 0),
    "no-annotations": removing("annotations"),
    "no-evaluation-keys": removing("annotations", 1, "iscrowd"),
}


@pytest.mark.parametrize("kind", REMARKS)
def test_remarks_do_not_stop(kind, content, write, name):
    REMARKS[kind](content)
    assert kinds(validate_coco(content))[kind] == 1
    register_coco(name, *write(content))
    assert len(DatasetCatalog.get(name)) == 2


def test_all_kinds_come_in_one_error_with_their_counts(content, write, name):
    for annotation in content["annotations"]:
        annotation["category_id"] = 1
    content["annotations"][0]["bbox"] = [1, 2, 3]
    with pytest.raises(DatasetError) as caught:
        register_coco(name, *write(content))
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert lines[1].startswith("  unknown-category: 3 times, first: annotation 11 of image 1: category_id 1")
    assert lines[2].startswith("  bad-box: annotation 11")


def test_bad_polygons_and_unknown_images_can_be_tolerated(content, write, name):
    polygon([1.0, 2.0])(content)
    content["annotations"][2]["image_id"] = 99
    path, root = write(content)
    with pytest.raises(DatasetError, match=r"tolerate=\('bad-polygon',\)"):
        register_coco(name, path, root)
    register_coco(name, path, root, tolerate=("bad-polygon", "unknown-image"))
    first, second = DatasetCatalog.get(name)
    assert len(first["annotations"][0]["segmentation"]) == 1
    assert second["annotations"] == []
    with pytest.raises(DatasetError, match="only .*'bad-polygon', 'unknown-image'.* can be tolerated"):
        register_coco(f"{name}_", path, root, tolerate=("rle-size",))


def test_missing_json_shows_what_is_there(content, write, name, tmp_path):
    path, root = write(content, "instances_train.json")
    with pytest.raises(DatasetError, match=r"no annotation file .*instances_trian.json\n.* has: instances_train.json"):
        register_coco(name, tmp_path / "instances_trian.json", root)
    with pytest.raises(DatasetError, match=rf"deep does not exist; {tmp_path} has: instances_train.json, pictures"):
        register_coco(name, tmp_path / "very/deep/labels.json", root)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.99])
def test_truncated_json(share, content, write, name):
    text = json.dumps(content)
    path, root = write(text[: int(len(text) * share)])
    with pytest.raises(DatasetError, match=r"labels.json is not valid json: .*cut off"):
        register_coco(name, path, root)


def test_damaged_and_foreign_json(content, write, name):
    path, root = write(json.dumps(content).replace('"images"', "images", 1))
    with pytest.raises(DatasetError, match="is not valid json: .* line 1, column .*; repair the file at that place"):
        register_coco(name, path, root)
    write([1, 2])
    with pytest.raises(DatasetError, match="missing-key: the top level is a list"):
        register_coco(name, path, root)


def test_wrong_image_root(content, write, name, tmp_path):
    path, root = write(content)
    with pytest.raises(DatasetError, match=r"no image .*\n  .* has: pictures/a.png.*\n  `image_root` joined with"):
        register_coco(name, path, tmp_path)
    (root / "b.png").unlink()
    (problem,) = validate_coco(content, image_root=root)
    assert (problem.kind, problem.count) == ("missing-image-file", 1)
    assert problem.example == f"image 2: no file {root / 'b.png'}"
