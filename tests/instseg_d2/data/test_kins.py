import copy
import json
import logging
import os

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from pycocotools import mask as mask_util

from instseg_d2.data import DatasetError, InstanceMapper, register_coco, write_occshapes
from instseg_d2.data.datasets import register_kins
from instseg_d2.data.synthetic import occshapes_scene, render
from instseg_d2.data.synthetic.layouts import annotated

SIZE = (40, 60)


def rle(top, left, bottom, right, compressed=True):
    mask = np.zeros(SIZE, dtype=np.uint8, order="F")
    mask[top:bottom, left:right] = 1
    encoded = mask_util.encode(mask)
    if compressed:
        return {"size": list(SIZE), "counts": encoded["counts"].decode()}
    flat = np.concatenate([[0], mask.ravel(order="F"), [2]])
    turns = np.flatnonzero(np.diff(flat[:-1])).tolist()
    runs = np.diff([0, *turns, mask.size]).tolist()
    return {"size": list(SIZE), "counts": runs}


def box_polygon(left, top, right, bottom):
    return [float(value) for value in (left, top, right, top, right, bottom, left, bottom)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("FVCORE_CACHE", str(folder))
    return folder


@pytest.fixture
def kins(content):
    """One cluster of two (polygons, and run lengths of both kinds), and a lone instance, in two images."""
    near = {"a_segm": [box_polygon(10, 5, 30, 15)], "i_segm": [box_polygon(10, 5, 30, 15)], "oco_id": 1, "ico_id": 1}
    # 20 x 10 pixels, of which the upper half lies behind the first.
    far = {"a_segm": rle(10, 10, 20, 30), "i_segm": rle(15, 10, 20, 30, compressed=False), "oco_id": 1, "ico_id": 2}
    lone = {"a_segm": rle(0, 0, 10, 10), "i_segm": rle(0, 0, 10, 10), "oco_id": 1, "ico_id": 0}
    boxes = ([10, 5, 20, 10], [10, 5, 20, 10]), ([10, 10, 20, 10], [10, 15, 20, 5]), ([0, 0, 10, 10], [0, 0, 10, 10])
    content["annotations"] = [
        {"id": 11 + n, "image_id": image, "category_id": category, "iscrowd": 0, "a_bbox": a, "i_bbox": i, **masks}
        for n, (masks, (a, i), image, category) in enumerate(
            zip((near, far, lone), boxes, (1, 1, 2), (7, 3, 3), strict=True)
        )
    ]
    return content


def decoded(mask):
    if isinstance(mask, list):
        mask = mask_util.merge(mask_util.frPyObjects(mask, *SIZE))
    return mask_util.decode(mask).astype(bool)


def test_polygons_and_both_kinds_of_run_lengths(kins, write, name):
    path, root = write(kins)
    dataset = register_kins(name, path, root)
    assert (dataset.num_classes, dataset.thing_classes, dataset.num_images) == (2, ("pear", "cup"), 2)
    first, second = DatasetCatalog.get(name)
    near, far = first["annotations"]
    assert near["segmentation"] == near["amodal_segmentation"] == [box_polygon(10, 5, 30, 15)]
    assert [near["category_id"], far["category_id"]] == [1, 0]
    expected = np.zeros(SIZE, bool)
    expected[10:20, 10:30] = True
    np.testing.assert_array_equal(decoded(far["segmentation"]), expected)
    expected[:15] = False
    np.testing.assert_array_equal(decoded(far["visible_segmentation"]), expected)
    assert isinstance(far["visible_segmentation"]["counts"], str)
    assert [a["covered"] for a in (near, far, *second["annotations"])] == [0, 0.5, 0]
    assert [a["depth"] for a in (near, far, *second["annotations"])] == [0, 1, 0]
    assert [a["id"] for a in (near, far, *second["annotations"])] == [11, 12, 13]


def test_masks_option_changes_mask_box_and_area(kins, write, name):
    path, root = write(kins)
    dataset = register_kins(name, path, root, masks="visible", extra_annotation_keys=["oco_id"])
    far = DatasetCatalog.get(name)[0]["annotations"][1]
    assert far["bbox"] == [10, 15, 20, 5]
    np.testing.assert_array_equal(decoded(far["segmentation"]), decoded(far["visible_segmentation"]))
    assert decoded(far["amodal_segmentation"]).sum() == 200
    assert far["oco_id"] == 1
    assert MetadataCatalog.get(name).masks == "visible"
    stored = json.loads(open(dataset.json_file).read())["annotations"]
    assert [a["area"] for a in stored] == [200, 100, 100]
    with pytest.raises(DatasetError, match="masks='modal': must be 'amodal' or 'visible'"):
        register_kins("other", path, root, masks="modal")


def test_boxes_that_the_file_lacks_are_those_of_the_masks(kins, write, name):
    for annotation in kins["annotations"]:
        del annotation["i_bbox"]
    register_kins(name, *write(kins), masks="visible")
    assert DatasetCatalog.get(name)[0]["annotations"][1]["bbox"] == [10, 15, 20, 5]


def test_annotations_of_2019_have_other_keys_and_no_order(kins, write, name):
    renamed = {"a_segm": "segmentation", "i_segm": "inmodal_seg", "a_bbox": "bbox", "i_bbox": "inmodal_bbox"}
    old = copy.deepcopy(kins)
    old["annotations"] = [
        {renamed.get(key, key): value for key, value in annotation.items() if key not in ("oco_id", "ico_id")}
        for annotation in old["annotations"]
    ]
    path, root = write(kins)
    register_kins(name, path, root, masks="visible")
    expected = DatasetCatalog.get(name)
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)
    register_kins(name, write(old, "old.json")[0], root, masks="visible")
    for new, record in zip(expected, DatasetCatalog.get(name), strict=True):
        for annotation in new["annotations"]:
            del annotation["depth"]
        assert new == record


def test_generated_set_reads_as_it_was_drawn(tmp_path, name):
    write_occshapes(tmp_path / "set", images=6, seed=3, progress=False)
    for kind in ("amodal", "visible"):
        register_kins(f"{name}_{kind}", tmp_path / "set/annotations_kins.json", tmp_path / "set/images", masks=kind)
    try:
        pairs = zip(DatasetCatalog.get(f"{name}_amodal"), DatasetCatalog.get(f"{name}_visible"), strict=True)
        for whole_record, seen_record in pairs:
            drawing = render(occshapes_scene(3, whole_record["image_id"] - 1))
            shown = annotated(drawing)
            assert len(whole_record["annotations"]) == len(seen_record["annotations"]) == len(shown)
            for whole, seen, number in zip(whole_record["annotations"], seen_record["annotations"], shown, strict=True):
                np.testing.assert_array_equal(mask_util.decode(whole["segmentation"]), drawing.amodal[number])
                np.testing.assert_array_equal(mask_util.decode(seen["segmentation"]), drawing.visible[number])
                assert whole["covered"] == seen["covered"] == pytest.approx(drawing.covered[number], abs=1e-4)
            depths = [annotation["depth"] for annotation in whole_record["annotations"]]
            assert min(depths) == 0
            # Of two that meet the nearer one, which is listed first, has the smaller depth.
            meets = [(drawing.amodal[a] & drawing.amodal[b]).any() for a in shown for b in shown]
            for a, b in np.argwhere(np.reshape(meets, (len(shown),) * 2)):
                assert a >= b or depths[a] < depths[b]
    finally:
        for kind in ("amodal", "visible"):
            DatasetCatalog.remove(f"{name}_{kind}")
            MetadataCatalog.remove(f"{name}_{kind}")


def test_plain_mapper_reads_the_records(kins, write, name):
    register_kins(name, *write(kins))
    mapper = InstanceMapper(is_train=True, augmentations=[])
    instances = mapper(DatasetCatalog.get(name)[0])["instances"]
    assert instances.gt_masks.tensor.sum(dim=(1, 2)).tolist() == [200, 200]


def test_missing_visible_masks_are_told_with_the_annotation(kins, write, name):
    del kins["annotations"][1]["i_segm"]
    del kins["annotations"][2]["i_segm"]
    with pytest.raises(DatasetError) as caught:
        register_kins(name, *write(kins))
    message = str(caught.value)
    assert "labels.json cannot be used as KINS" in message
    assert "no-visible-mask: 2 times, first: annotation 12 of image 1: no 'i_segm' or 'inmodal_seg'; it has" in message
    assert "is read by register_coco" in message
    assert name not in DatasetCatalog.list()


def first(key, value):
    def change(kins):
        kins["annotations"][0][key] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (first("a_segm", []), "no-amodal-mask: annotation 11 of image 1: no 'a_segm' or 'segmentation'"),
        (first("a_segm", [[1, 2, 3, 4]]), r"bad-polygon: annotation 11 of image 1: 'a_segm'\[0\] has 4 numbers"),
        (first("i_segm", {"size": [60, 40], "counts": [2400]}), r"rle-size: .*the mask is \[60, 40\]"),
        (first("i_segm", "none"), "bad-segmentation: annotation 11 of image 1: 'i_segm' is 'none'"),
        (first("i_segm", {"size": [40, 60], "counts": [7]}), "bad-rle: annotation 11 of image 1"),
        (first("ico_id", None), "bad-order: annotation 11 of image 1: 'ico_id' is None"),
        (first("image_id", 5), "unknown-image: annotation 11 of image 5"),
        (first("category_id", 5), "unknown-category: annotation 11 of image 1"),
        (first("a_bbox", [1, 2]), "bad-box: annotation 11 of image 1"),
        (first("id", "x"), r"bad-annotation: annotations\[0\]"),
        (first("id", 12), "duplicate-annotation-id"),
        (lambda kins: kins["images"][0].pop("height"), "bad-image: image 1: no 'height'"),
        (lambda kins: kins.pop("images"), "missing-key: no list 'images' at the top level"),
        (lambda kins: kins["annotations"].append(3), r"bad-annotation: annotations\[3\] is 3"),
    ],
)
def test_broken_file_is_refused_with_the_place(kins, write, name, change, message):
    change(kins)
    with pytest.raises(DatasetError, match=message):
        register_kins(name, *write(kins))


def test_tolerated_problems_are_left_out(kins, write, name):
    kins["annotations"][0]["a_segm"].append([1, 2, 3, 4])
    kins["annotations"].append({**kins["annotations"][2], "id": 14, "image_id": 99})
    path, root = write(kins)
    register_kins(name, path, root, tolerate=("bad-polygon", "unknown-image"))
    annotations = [a for record in DatasetCatalog.get(name) for a in record["annotations"]]
    assert [a["id"] for a in annotations] == [11, 12, 13]
    assert annotations[0]["segmentation"] == [box_polygon(10, 5, 30, 15)]
    with pytest.raises(DatasetError, match="only .* can be tolerated"):
        register_kins("other", path, root, tolerate=("bad-box",))


@pytest.mark.parametrize("nothing", [[], rle(0, 0, 0, 0)])
def test_fully_hidden_instances_stay_in_amodal_sets_alone(kins, write, name, nothing, caplog):
    kins["annotations"][1]["i_segm"] = nothing
    path, root = write(kins)
    with caplog.at_level(logging.INFO, logger="instseg_d2"):
        register_kins(name, path, root)
    assert "fully-hidden: annotation 12 of image 1" in caplog.text
    hidden = DatasetCatalog.get(name)[0]["annotations"][1]
    assert hidden["covered"] == 1
    assert not decoded(hidden["visible_segmentation"]).any()
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)
    register_kins(name, path, root, masks="visible")
    assert [a["id"] for a in DatasetCatalog.get(name)[0]["annotations"]] == [11]


def test_crowd_needs_no_visible_mask(kins, write, name):
    kins["annotations"][1]["iscrowd"] = 1
    del kins["annotations"][1]["i_segm"]
    register_kins(name, *write(kins))
    record = DatasetCatalog.get(name)[0]
    assert record["annotations"][1]["iscrowd"] == 1
    assert len(InstanceMapper(is_train=True, augmentations=[])(record)["instances"]) == 1


def test_unused_categories_may_be_left_out(kins, write, name):
    kins["categories"].append({"id": 9, "name": "rider"})
    path, root = write(kins)
    assert register_kins(name, path, root, classes=["pear", "cup"]).thing_classes == ("pear", "cup")
    with pytest.raises(DatasetError, match="unknown-class: no category 'tram' among"):
        register_kins(f"{name}_2", path, root, classes=["tram"])
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)
    # Instances are never dropped because of their category.
    assert register_kins(name, path, root, classes=["cup"]).thing_classes == ("pear", "cup")


def test_data_folder_is_only_read_and_the_form_is_made_once(kins, write, name, cache, tmp_path):
    path, root = write(kins)
    before = {entry: entry.stat().st_mtime_ns for entry in [*tmp_path.iterdir(), *root.iterdir()]}
    dataset = register_kins(name, path, root)
    assert {entry: entry.stat().st_mtime_ns for entry in [path, *root.iterdir()]}.items() <= before.items()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["cache", "labels.json", "pictures"]
    assert dataset.json_file.startswith(str(cache))
    stamp = os.stat(dataset.json_file)
    register_kins(name, path, root)
    assert os.stat(dataset.json_file).st_ino == stamp.st_ino

    # A source of another time, even an older one, is read anew, under the same name.
    kins["categories"].append({"id": 9, "name": "lemon"})
    write(kins)
    os.utime(path, ns=(1, 1))
    assert register_kins(name, path, root).thing_classes == ("pear", "cup", "lemon")
    chosen = register_kins(f"{name}_2", path, root, cache_folder=tmp_path / "mine")
    assert chosen.json_file.startswith(str(tmp_path / "mine"))
    DatasetCatalog.remove(f"{name}_2")
    MetadataCatalog.remove(f"{name}_2")


def test_unwritable_cache_says_what_to_set(kins, write, name, cache):
    path, root = write(kins)
    cache.write_text("a file in the way")
    with pytest.raises(DatasetError, match="cannot keep what is made from .*FVCORE_CACHE, or cache_folder"):
        register_kins(name, path, root)


def test_missing_file_shows_what_is_there(kins, write, name):
    path, root = write(kins)
    with pytest.raises(DatasetError, match=r"no annotation file .*labls.json\n.* has: labels.json"):
        register_kins(name, path.with_name("labls.json"), root)


def test_name_of_another_set_is_refused(kins, content, write, name):
    path, root = write(kins)
    register_kins(name, path, root)
    with pytest.raises(DatasetError, match=f"'{name}' is taken"):
        register_kins(name, path, root, masks="visible")
    with pytest.raises(DatasetError, match=f"'{name}' is taken"):
        register_coco(name, write({**content, "annotations": []}, "coco.json")[0], root)
