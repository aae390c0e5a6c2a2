"""Masks of the right form with wrong content, each in a set that is otherwise clean."""

import numpy as np
import pytest
from pycocotools import mask as mask_util

from instseg_d2.data.checks import check_dataset

SQUARE = [10.0, 5.0, 30.0, 5.0, 30.0, 15.0, 10.0, 15.0]


def found(content):
    return {problem.kind: problem for problem in check_dataset(content).problems}


@pytest.mark.parametrize(
    ("change", "kind", "fatal", "words"),
    [
        ({"segmentation": [[10, 5, 20, 10, 30, 15]]}, "empty-mask", True, "the mask covers no pixel"),
        ({"segmentation": {"size": [40, 60], "counts": [2400]}}, "empty-mask", True, "annotation 11 of image 1"),
        ({"segmentation": [[70, 5, 90, 5, 90, 15]]}, "mask-outside-image", True, "x 70.0 to 90.0, y 5.0 to 15.0, the"),
        ({"segmentation": [[0, 0, 1e9, 0, 1e9, 1e9]]}, "mask-outside-image", True, "the image is 60 x 40"),
        ({"bbox": [40, 20, 10, 10]}, "box-elsewhere", True, "[40.0, 20.0, 10.0, 10.0], the mask lies in [10.0, 5.0,"),
        ({"bbox": [10, 5, 26, 13]}, "loose-box", False, "'bbox' is [10.0, 5.0, 26.0, 13.0]"),
        ({"area": 2000}, "area-mismatch", False, "'area' is 2000, the mask has 200 pixels"),
        ({"segmentation": [[10, -9, 30, -9, 30, 15, 10, 15]]}, "polygon-leaves-image", False, "polygon 0 by 9.0 px"),
        ({"segmentation": [SQUARE, [50, 5, 50, 9, 50, 7]]}, "empty-polygon", False, "polygon 1 covers no pixel"),
        ({"segmentation": [[10, 5, 30, 5, 10, 15, 30, 15]]}, "self-intersecting-polygon", False, "[20 10]"),
    ],
    ids=lambda value: value if isinstance(value, str) and "-" in value else "",
)
def test_fault_is_told_with_its_place(content, change, kind, fatal, words):
    assert check_dataset(content).problems == []
    content["annotations"][0].update(change)
    problem = found(content)[kind]
    assert (problem.count, problem.fatal) == (1, fatal)
    assert problem.example.startswith("annotation 11 of image 1")
    assert words in problem.example


def test_box_in_corners_is_recognised(content):
    content["annotations"][1]["bbox"] = [40, 20, 50, 32]
    assert found(content)["box-elsewhere"].example.endswith("(it fits when read as [x0, y0, x1, y1])")


@pytest.mark.parametrize("box", [[8.5, 5, 21.5, 10], [10, 5, 20, 11.9]])
def test_boxes_within_two_pixels_fit(content, box):
    content["annotations"][0]["bbox"] = box
    assert not found(content)


def test_box_may_go_on_where_the_image_ends(content):
    content["annotations"][0].update(bbox=[50, 5, 30, 10], segmentation=[[50, 5, 80, 5, 80, 15, 50, 15]], area=100)
    assert set(found(content)) == {"polygon-leaves-image"}


@pytest.mark.parametrize(
    ("box", "kinds"),
    [
        ([61, 5, 10, 10], {"box-outside-image": True}),
        ([5, -20, 10, 20], {"box-outside-image": True}),
        ([50, 5, 13, 10], {"box-leaves-image": False}),
        ([50, 5, 11, 10], {}),
        ([-2, -2, 64, 44], {}),
    ],
)
def test_boxes_without_masks_lie_in_the_image(content, box, kinds):
    content["annotations"][0].update(bbox=box, segmentation=None)
    problems = found(content)
    problems.pop("annotations-without-mask")
    assert {kind: problem.fatal for kind, problem in problems.items()} == kinds


def test_duplicates_are_the_same_pixels_in_any_form(content):
    original = content["annotations"][0]
    mask = np.zeros((40, 60), np.uint8, order="F")
    mask[5:15, 10:30] = 1
    rle = mask_util.encode(mask)
    same = {**original, "id": 14, "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()}}
    other_category = {**original, "id": 15, "category_id": 3}
    other_image = {**original, "id": 16, "image_id": 2}
    content["annotations"] += [same, other_category, other_image]
    (problem,) = check_dataset(content).problems
    assert (problem.kind, problem.count, problem.fatal) == ("duplicate-annotation", 1, True)
    expected = "annotation 14 of image 1 has the mask and the category of annotation 11 of image 1"
    assert problem.example == expected


def test_duplicates_of_boxes_without_masks(content):
    for annotation in content["annotations"]:
        del annotation["segmentation"]
    content["annotations"].append({**content["annotations"][0], "id": 14})
    assert "has the box and the category of annotation 11" in found(content)["duplicate-annotation"].example


@pytest.mark.parametrize(
    ("cut", "words"),
    [
        (lambda counts: counts[:-1], "'counts' is"),
        (lambda counts: counts[:-2], "'counts' sum to"),
        (lambda counts: counts + "5", "'counts' sum to"),
        (lambda counts: counts[:-1] + "é", "'counts' is"),
        (lambda counts: "", "'counts' is ''"),
        (lambda counts: "-" + counts, "'counts' is"),
    ],
)
def test_damaged_run_lengths_are_never_decoded(content, cut, words):
    annotation = content["annotations"][1]
    counts = mask_util.frPyObjects(annotation["segmentation"], 40, 60)["counts"].decode()
    annotation["segmentation"]["counts"] = counts
    assert not found(content)
    annotation["segmentation"]["counts"] = cut(counts)
    problem = found(content)["bad-rle"]
    assert problem.fatal
    assert words in problem.example


def test_run_lengths_of_any_mask_are_understood(content):
    rng = np.random.default_rng(0)
    annotation = content["annotations"][2]
    for share in (0.02, 0.5, 0.98, 1.0):
        height, width = 331, 257
        mask = np.asfortranarray(rng.random((height, width)) < share).astype(np.uint8)
        rle = mask_util.encode(mask)
        content["images"][1].update(height=height, width=width)
        annotation.update(
            segmentation={"size": [height, width], "counts": rle["counts"].decode()},
            bbox=mask_util.toBbox(rle).tolist(),
            area=int(mask.sum()),
        )
        assert not found(content)


@pytest.mark.parametrize("key", ["amodal_segmentation", "visible_segmentation"])
def test_further_masks_are_checked_for_their_form(content, key):
    content["annotations"][0][key] = [[1, 2, 3]]
    assert f"annotation 11: '{key}'[0] has 3 numbers" in found(content)["bad-polygon"].example
    content["annotations"][0][key] = {"size": [60, 40], "counts": [2400]}
    assert found(content)["rle-size"].fatal
