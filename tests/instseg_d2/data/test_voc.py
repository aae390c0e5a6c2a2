"""VOC's folders and SBD's files become COCO: classes, boxes and areas by hand, which images, and what is broken."""

from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from pycocotools import mask as mask_util
from scipy.io import savemat

from instseg_d2.data import BoxSupervision, DatasetError, InstanceMapper, get_supervised_dataset_dicts, register_voc
from instseg_d2.data.checks import check_dataset
from instseg_d2.data.datasets import builtin, read_coco_json
from instseg_d2.data.datasets.voc import VOC_CLASSES, VocSource, read_sbd_objects, read_voc_objects

PERSON, DOG, BUS = (VOC_CLASSES.index(name) + 1 for name in ("person", "dog", "bus"))


def write_palette(file, numbers):
    file.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(numbers, mode="P")
    image.putpalette([value for entry in range(256) for value in (entry, 255 - entry, 7)])
    image.save(file)


def write_own(root, name, objects):
    """An image with objects {number: (class, rows, columns)}, each in a band of unlabelled pixels."""
    classes, numbers = (np.zeros((40, 60), dtype=np.uint8) for _ in range(2))
    for number, (category, (top, bottom), (left, right)) in objects.items():
        for mask, value in ((classes, category), (numbers, number)):
            mask[top - 1 : bottom + 1, left - 1 : right + 1] = 255
            mask[top:bottom, left:right] = value
    write_palette(root / f"VOC2012/SegmentationClass/{name}.png", classes)
    write_palette(root / f"VOC2012/SegmentationObject/{name}.png", numbers)
    write_picture(root, name)


def write_picture(root, name):
    folder = root / "VOC2012/JPEGImages"
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((40, 60, 3), 90, dtype=np.uint8)).save(folder / f"{name}.jpg")


def write_sbd(root, name, numbers, categories):
    folder = root / "SBD/inst"
    folder.mkdir(parents=True, exist_ok=True)
    savemat(folder / f"{name}.mat", {"GTinst": {"Segmentation": numbers, "Categories": categories, "Boundaries": 0}})


def write_lists(root, lists):
    for path, names in lists.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("\n".join(names) + "\n")


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Two images of VOC, which SBD has too, and two of SBD alone."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "sets"
    write_own(root, "2007_000032", {1: (PERSON, (5, 15), (10, 30)), 2: (DOG, (20, 30), (40, 50))})
    # Numbers need not be without gaps.
    write_own(root, "2007_000033", {3: (BUS, (2, 38), (2, 58))})
    quarters = np.zeros((40, 60), dtype=np.uint8)
    quarters[:20, :30], quarters[20:, 30:] = 1, 2
    for name, categories in {"2008_000002": [DOG, PERSON], "2008_000001": [BUS, BUS]}.items():
        write_sbd(root, name, quarters, categories)
        write_picture(root, name)
    sets = "VOC2012/ImageSets/Segmentation"
    write_lists(
        root,
        {
            f"{sets}/train.txt": ["2007_000032"],
            f"{sets}/val.txt": ["2007_000033"],
            "SBD/train.txt": ["2008_000002", "2007_000033"],
            "SBD/val.txt": ["2007_000032", "2008_000001"],
        },
    )
    return root


def source(root, split, **settings):
    return VocSource(folder=str(root / "VOC2012"), split=split, **settings)


def test_classes_boxes_and_areas_are_those_of_the_masks(root):
    content = source(root, "train").content()
    assert content["images"] == [{"id": 1, "file_name": "2007_000032.jpg", "height": 40, "width": 60}]
    assert [category["name"] for category in content["categories"]] == list(VOC_CLASSES)
    first, second = content["annotations"]
    assert (first["category_id"], first["bbox"], first["area"]) == (PERSON, [10, 5, 20, 10], 200)
    assert (second["category_id"], second["bbox"], second["area"]) == (DOG, [40, 20, 10, 10], 100)
    assert [first["id"], second["id"]] == [1, 2]
    expected = np.zeros((40, 60), dtype=bool)
    expected[5:15, 10:30] = True
    np.testing.assert_array_equal(mask_util.decode(first["segmentation"]), expected)


def test_trainaug_is_train_and_what_sbd_has_beyond_val(root):
    content = source(root, "trainaug", sbd_folder=str(root / "SBD")).content()
    names = [image["file_name"].removesuffix(".jpg") for image in content["images"]]
    assert names == ["2007_000032", "2008_000001", "2008_000002"]
    found = [(a["image_id"], a["category_id"], a["bbox"]) for a in content["annotations"]]
    # The first is of VOC's own masks, although SBD lists it.
    assert found[:2] == [(1, PERSON, [10, 5, 20, 10]), (1, DOG, [40, 20, 10, 10])]
    assert found[2:4] == [(2, BUS, [0, 0, 30, 20]), (2, BUS, [30, 20, 30, 20])]
    assert found[4:] == [(3, DOG, [0, 0, 30, 20]), (3, PERSON, [30, 20, 30, 20])]


def test_one_object_in_sbd(tmp_path):
    numbers = np.ones((4, 5), dtype=np.uint8)
    write_sbd(tmp_path, "one", numbers, BUS)
    found, categories = read_sbd_objects(tmp_path / "SBD/inst/one.mat")
    np.testing.assert_array_equal(found, numbers)
    assert categories == [BUS]


def test_class_of_most_pixels_counts(tmp_path):
    """Where the two masks disagree by a few pixels."""
    numbers = np.zeros((4, 5), dtype=np.uint8)
    numbers[:, :3] = 7
    classes = np.where(numbers > 0, DOG, 0).astype(np.uint8)
    classes[0, 0], classes[1, 0], classes[2:, 0] = PERSON, 255, 0
    for name, mask in (("class", classes), ("object", numbers)):
        write_palette(tmp_path / f"{name}.png", mask)
    found, categories = read_voc_objects(tmp_path / "class.png", tmp_path / "object.png")
    assert categories == [DOG]
    np.testing.assert_array_equal(found, numbers > 0)


def test_registered_set_trains_on_boxes_alone(root, name):
    dataset = register_voc(name, root / "VOC2012", "trainaug", sbd_folder=root / "SBD")
    assert (dataset.num_images, dataset.num_classes, dataset.thing_classes) == (3, 20, VOC_CLASSES)
    records = get_supervised_dataset_dicts(name, supervision=BoxSupervision())
    assert all("segmentation" not in annotation for record in records for annotation in record["annotations"])
    instances = InstanceMapper(is_train=True, augmentations=[], use_instance_mask=False)(records[0])["instances"]
    assert instances.gt_boxes.tensor.tolist() == [[10, 5, 30, 15], [40, 20, 50, 30]]
    assert instances.gt_classes.tolist() == [PERSON - 1, DOG - 1]


def test_builtin_names_read_the_same_and_pass_the_check(root):
    before = dict(builtin._roots)
    builtin.register_builtin(root)
    try:
        counts = {split: len(DatasetCatalog.get(f"voc_2012_inst_{split}")) for split in ("train", "trainaug", "val")}
        assert counts == {"train": 1, "trainaug": 3, "val": 1}
        metadata = MetadataCatalog.get("voc_2012_inst_trainaug")
        assert metadata.list_file == str(root / "VOC2012/ImageSets/Segmentation/train.txt")
        assert str(root) not in metadata.json_file
        report = check_dataset(read_coco_json(metadata.json_file), Path(metadata.image_root))
        assert report.is_usable
        assert report.summary[0].startswith("3 images, 0 without instances")
        (root / "SBD/inst").rename(root / "SBD/elsewhere")
        with pytest.raises(DatasetError, match=r"no SBD/inst in .*(?s:.*)inst/\*\.mat"):
            builtin.prepare_dataset("voc_2012_inst_trainaug")
    finally:
        builtin.register_builtin(before["occshapes_train"])


def test_form_is_made_again_for_another_list_alone(root):
    val = source(root, "val")
    val.prepare()
    stamp = val.coco_json.stat()
    val.prepare()
    assert val.coco_json.stat().st_ino == stamp.st_ino
    val.list_file.write_text("2007_000033\n2007_000032\n")
    val.prepare()
    assert val.coco_json.read_text().count("file_name") == 2
    others = {source(root, "trainaug", sbd_folder=str(root / folder)).coco_json for folder in ("SBD", "sbd")}
    assert len({val.coco_json, *others}) == 3


def rename(path):
    path.rename(path.with_name("elsewhere"))


def in_color(path):
    Image.open(path).convert("RGB").save(path)


def smaller(path):
    write_palette(path, np.zeros((3, 4), dtype=np.uint8))


def without_classes(path):
    write_palette(path, np.zeros((40, 60), dtype=np.uint8))


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("VOC2012/SegmentationObject/2007_000032.png", rename, "no mask .*2007_000032.png; its image is in the list"),
        ("VOC2012/SegmentationObject/2007_000032.png", in_color, "has colors"),
        ("VOC2012/SegmentationClass/2007_000032.png", smaller, r"is of size \(3, 4\), .* of size \(40, 60\)"),
        ("VOC2012/SegmentationClass/2007_000032.png", without_classes, "object 1 of .* has no class in"),
        ("VOC2012/SegmentationClass/2007_000032.png", lambda path: path.write_bytes(b"x"), "cannot read .*000032.png"),
        ("SBD/inst/2008_000001.mat", rename, "no mask .*2008_000001.mat"),
        ("SBD/inst/2008_000001.mat", lambda path: path.write_bytes(b"x" * 200), "as a file of SBD's folder inst"),
        ("SBD/inst/2008_000001.mat", lambda path: savemat(path, {"GTcls": 1}), "as a file of SBD's folder inst"),
        ("SBD/val.txt", rename, "cannot read the list of images .*val.txt"),
        ("VOC2012/ImageSets/Segmentation/train.txt", rename, "cannot read the list of images .*train.txt"),
    ],
)
def test_broken_files_are_named(root, file, change, message):
    change(root / file)
    with pytest.raises(DatasetError, match=message):
        source(root, "trainaug", sbd_folder=str(root / "SBD")).prepare()


def test_more_objects_than_categories(tmp_path):
    write_sbd(tmp_path, "two", np.array([[1, 2], [0, 3]], dtype=np.uint8), [BUS, DOG])
    with pytest.raises(DatasetError, match="has 2 categories for objects up to 3"):
        read_sbd_objects(tmp_path / "SBD/inst/two.mat")


def test_trainaug_asks_for_sbd(root):
    with pytest.raises(DatasetError, match="needs sbd_folder"):
        source(root, "trainaug")
