"""Images chosen by how their boxes overlap: each rule by hand, and the sets made of the chosen images."""

import json
import os

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from instseg_d2.data import DatasetError, write_occshapes
from instseg_d2.data.datasets import builtin
from instseg_d2.data.datasets.coco_occ import (
    OCCLUSION_RULES,
    box_iou,
    coco_2017_val,
    covered_by_others,
    keep_images,
    occluded,
    occluded_images,
    occluded_splits,
    occlusion_rule,
    share_of_smaller,
)

# xywh: B covers the right half of A (and 50 of its own 100), C lies inside of A, D is apart.
A, B, C, D = [0, 0, 10, 10], [5, 0, 10, 10], [0, 0, 5, 4], [50, 50, 10, 10]


def boxes(*listed):
    return np.array(listed, dtype=float)


def annotate(*listed, **more):
    return [
        {"id": number, "image_id": 1, "category_id": 1, "iscrowd": 0, "bbox": box, **more}
        for number, box in enumerate(listed, start=1)
    ]


def test_pairs_by_hand():
    expected = np.array([[0, 50 / 150, 0.2, 0], [50 / 150, 0, 0, 0], [0.2, 0, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_allclose(box_iou(boxes(A, B, C, D)), expected)
    expected = np.array([[0, 0.5, 1, 0], [0.5, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_allclose(share_of_smaller(boxes(A, B, C, D)), expected)


def test_union_of_the_others_by_hand():
    # Of A the right half and the 20 px of C in the left half, of B its left half.
    np.testing.assert_allclose(covered_by_others(boxes(A, B, C, D)), [0.7, 0.5, 1, 0])
    # Two that cover the same half of A cover it once; of two equal ones each is covered.
    np.testing.assert_allclose(covered_by_others(boxes(A, B, B)), [0.5, 1, 1])
    # Boxes that touch share nothing, and one without area has no share.
    np.testing.assert_allclose(covered_by_others(boxes(A, [10, 0, 5, 5], [2, 2, 0, 3])), [0, 0, 0])


def test_union_of_the_others_equals_a_count_of_pixels():
    rng = np.random.default_rng(0)
    corner = rng.integers(0, 30, (12, 2))
    listed = np.concatenate([corner, rng.integers(1, 20, (12, 2))], axis=1).astype(float)
    planes = np.zeros((12, 60, 60), dtype=bool)
    for plane, (x, y, width, height) in zip(planes, listed.astype(int), strict=True):
        plane[y : y + height, x : x + width] = True
    expected = [(plane & np.delete(planes, row, 0).any(0)).sum() / plane.sum() for row, plane in enumerate(planes)]
    np.testing.assert_allclose(covered_by_others(listed), expected)


@pytest.mark.parametrize(
    ("rule", "score"),
    [
        ("any_iou_no_crowd", 1 / 3),
        ("any_smaller_no_crowd", 1),
        ("mean_iou", (1 / 3 + 1 / 3 + 0.2 + 0) / 4),
        ("mean_smaller", (1 + 0.5 + 1 + 0) / 4),
        ("any_covered", 1),
        ("mean_covered", (0.7 + 0.5 + 1 + 0) / 4),
        ("any_iou", 1 / 3),
        ("any_iou_same_class", 0.2),
        ("any_smaller_same_class", 1),
    ],
)
def test_rules_by_hand(rule, score):
    listed = annotate(A, B, C, D)
    listed[1]["category_id"] = 2
    assert OCCLUSION_RULES[rule].score(listed) == pytest.approx(score)


def test_crowd_regions_take_part_only_where_the_rule_says_so():
    listed = annotate(A, C, B)
    listed[2]["iscrowd"] = 1
    with_crowd = {"any_iou": 1 / 3, "any_smaller": 1}
    for name, rule in OCCLUSION_RULES.items():
        assert rule.crowd == (name in with_crowd)
    assert OCCLUSION_RULES["any_iou"].score(listed) == pytest.approx(1 / 3)
    assert OCCLUSION_RULES["any_iou_no_crowd"].score(listed) == pytest.approx(0.2)
    assert OCCLUSION_RULES["any_iou_same_class"].score(listed) == pytest.approx(0.2)


@pytest.mark.parametrize("rule", OCCLUSION_RULES)
def test_nothing_overlaps_in_images_of_no_or_one_object(rule):
    assert OCCLUSION_RULES[rule].score([]) == 0
    assert OCCLUSION_RULES[rule].score(annotate(A)) == 0
    assert OCCLUSION_RULES[rule].score(annotate(A, D, [3, 3, 0, 0])) == 0


def content():
    """Image 3: IoU 1/3. Image 1: exactly 0.2. Image 2: nothing. Image 4: no annotations."""
    per_image = {3: annotate(A, B, area=77.5), 1: annotate(A, C), 2: annotate(A, D), 9: annotate(A, A)}
    annotations = [{**one, "image_id": key} for key, listed in per_image.items() for one in listed]
    for number, one in enumerate(annotations, start=100):
        one["id"] = number
    images = [{"id": key, "file_name": f"{key}.png", "height": 60, "width": 60} for key in (3, 1, 2, 4)]
    return {"info": {"x": 1}, "images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cup"}]}


def test_images_are_chosen_in_the_order_of_the_file_and_kept_as_they_are():
    full = content()
    assert occluded_images(full, "any_iou_no_crowd") == [3, 1]
    assert occluded_images(full, "any_iou_no_crowd", 0.21) == [3]
    assert occluded_images({**full, "annotations": []}) == []
    kept = keep_images(full, [3])
    assert kept["images"] == full["images"][:1]
    assert kept["annotations"] == full["annotations"][:2]
    assert kept["annotations"][0]["area"] == 77.5
    assert (kept["info"], kept["categories"]) == (full["info"], full["categories"])
    with pytest.raises(DatasetError, match="'any_giou'; there are any_iou, "):
        occlusion_rule("any_giou")


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    return str(tmp_path / "data")


def occshapes(amodal=False):
    return builtin.occshapes_split("val", images=12, seed=1, size=64, amodal=amodal)


def test_occshapes_with_the_same_images_visible_and_amodal(root, name):
    splits = occluded_splits(occshapes(), occshapes(amodal=True))
    assert list(splits) == ["coco_2017_val_occ", "occshapes_val_occ", "occshapes_amodal_val_occ"]
    visible, amodal = splits["occshapes_val_occ"], splits["occshapes_amodal_val_occ"]
    assert not os.path.exists(root)
    MetadataCatalog.get(name).set(**visible.metadata(root))
    assert MetadataCatalog.get(name).masks == "visible"
    assert MetadataCatalog.get(name).occlusion_rule == "mean_iou >= 0.2"
    DatasetCatalog.register(name, lambda: visible.load(name, root))
    visible.prepare(name, root)
    full = json.loads(open(occshapes().evaluation_json(root)).read())
    expected = occluded_images(full)
    records = DatasetCatalog.get(name)
    assert [record["image_id"] for record in records] == expected
    assert 0 < len(expected) < 12
    # What evaluation reads has the same images, and areas are those of the full file.
    file = json.loads(open(MetadataCatalog.get(name).json_file).read())
    assert file == keep_images(full, expected)
    amodal.prepare(name, root)
    assert amodal.metadata(root)["masks"] == "amodal"
    whole = json.loads(open(amodal.evaluation_json(root)).read())
    assert [image["id"] for image in whole["images"]] == expected
    assert whole["annotations"][0]["segmentation"] == whole["annotations"][0]["amodal_segmentation"]


def test_the_selection_is_made_once_and_again_for_another_file(root, name):
    split = occluded(occshapes(), rule="any_iou_no_crowd")
    split.prepare(name, root)
    path = split.evaluation_json(root)
    assert occluded(occshapes(), rule="mean_iou").evaluation_json(root) != path
    first = os.stat(path)
    split.prepare(name, root)
    assert os.stat(path).st_ino == first.st_ino
    write_occshapes(os.path.join(root, occshapes().folder), images=3, seed=9, size=64, overwrite=True, progress=False)
    split.prepare(name, root)
    assert len(json.loads(open(path).read())["images"]) <= 3


def test_a_set_without_occluded_images_is_refused(root, name, monkeypatch):
    monkeypatch.setattr("instseg_d2.data.datasets.coco_occ.occluded_images", lambda *_: [])
    with pytest.raises(DatasetError, match=r"annotations.json: no image with 'mean_iou' of 0.2 or more"):
        occluded(occshapes()).prepare(name, root)


def test_coco_is_looked_for_where_detectron2_has_it(root, tmp_path, name):
    split = occluded(coco_2017_val())
    assert len(split.classes) == 80
    with pytest.raises(DatasetError, match="coco/annotations/instances_val2017.json.*\n"):
        split.prepare(name, root)
    folder = tmp_path / "data/coco"
    (folder / "annotations").mkdir(parents=True)
    (folder / "val2017").mkdir()
    (folder / "annotations/instances_val2017.json").write_text(json.dumps(content()))
    split.prepare(name, root)
    file = json.loads(open(split.evaluation_json(root)).read())
    assert [image["id"] for image in file["images"]] == [3, 1]
    assert split.evaluation_json(root).startswith(str(tmp_path / "cache"))


def test_a_cache_that_cannot_be_written(root, tmp_path, name, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "file"))
    with pytest.raises(DatasetError, match="FVCORE_CACHE, .* to a folder with write access"):
        occluded(occshapes()).prepare(name, root)
