"""AP by overlap and wrong pixels of masks: by hand, against the evaluator, and against pixels drawn and counted."""

import json
import math

import numpy as np
import pytest
from pycocotools import mask as mask_util

from instseg_d2.data import DatasetError
from instseg_d2.evaluation import GroundTruth, SubsetCOCOEvaluator, overlap_at_least
from instseg_d2.evaluation.instance_subsets import selected_ids
from instseg_d2.evaluation.overlap import (
    OVERLAP_BINS,
    FalsePositives,
    ap_by_overlap,
    attribute_false_positives,
    overlap_between,
    read_results,
)

LEFT, RIGHT, NOWHERE = (5, 5, 25, 25), (45, 5, 65, 25), (5, 40, 15, 50)


@pytest.fixture
def result(rle):
    """An entry of COCO's results format; the mask is a filled box, by default the box itself."""

    def make(image_id, category, box, score, mask=None):
        x0, y0, x1, y1 = box
        entry = {"image_id": image_id, "category_id": category, "score": score}
        return {**entry, "bbox": [x0, y0, x1 - x0, y1 - y0], "segmentation": rle(mask or box)}

    return make


def test_bins_cover_all_overlaps_once(dataset, annotation):
    """O of a 10 x 10 box under another mask of as many columns: 0.1, 0.3 and 1; of boxes that meet nothing, 0."""
    truth = [annotation(1, 1, 3, (0, 0, 10, 10))]
    for image_id, columns in enumerate((1, 3, 10), start=2):
        truth.append(annotation(image_id, image_id, 3, (20, 20, 30, 30)))
        truth.append(annotation(10 * image_id, image_id, 8, (30 - columns, 20, 30, 60)))
    subsets = [overlap_between(*ends) for ends in OVERLAP_BINS]
    assert [subset.name for subset in subsets][:2] == ["overlap_0-0.1", "overlap_0.1-0.2"]
    selected = selected_ids(GroundTruth(dataset(truth, images=4)), subsets)
    found = [{key for key in ids if key < 10} for ids in selected]
    assert found == [{1, 2}, set(), {3}, *[set()] * 6, {4}]
    assert sorted(key for ids in selected for key in ids) == sorted(one["id"] for one in truth)


@pytest.mark.parametrize("ends", [(0.2, 0.2), (0.5, 0.1), (-0.1, 0.2), (0.5, 1.1)])
def test_ranges_that_cannot_be(ends):
    with pytest.raises(ValueError, match="a range of overlaps"):
        overlap_between(*ends)


def test_ap_by_overlap_by_hand(dataset, annotation, result):
    """Cups: A alone, and B of whose 20 x 20 box a leaf's mask fills 6 rows, 0.3. By score: A, a false one, B.

    All: precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1, so 51 of 101 points at 1 and 50 at 2/3.
    A alone counts: hit, false: 1. B alone: false, hit: 1/2; A's detection is ignored.
    """
    truth = [annotation(1, 1, 3, LEFT), annotation(2, 1, 3, RIGHT), annotation(3, 1, 20, (45, 19, 65, 25))]
    found = [result(1, 3, LEFT, 0.9), result(1, 3, NOWHERE, 0.8), result(1, 3, RIGHT, 0.7)]
    rows = ap_by_overlap(GroundTruth(dataset(truth)), found, categories=["cup"])
    by_label = {row["overlap"]: row for row in rows}
    assert list(by_label) == ["all", *(f"{low:g}-{high:g}" for low, high in OVERLAP_BINS), ">= 0.3"]
    assert by_label["all"]["AP"] == pytest.approx(100 * (51 + 50 * 2 / 3) / 101)
    alone = by_label["0-0.1"]
    assert alone["instances"] == 1
    assert [alone[metric] for metric in ("AP", "AP50", "AP75")] == pytest.approx([100] * 3)
    for label in ("0.2-0.3", ">= 0.3"):
        assert by_label[label]["instances"] == 1
        assert by_label[label]["AP"] == pytest.approx(50)
    assert by_label["0.3-0.4"]["instances"] == 0
    assert math.isnan(by_label["0.3-0.4"]["AP"])
    leaves = ap_by_overlap(GroundTruth(dataset(truth)), found, categories=["leaf"])
    assert {row["overlap"] for row in leaves if row["instances"]} == {"all", "0.9-1", ">= 0.3"}
    assert all(row["AP"] == 0 for row in leaves if row["instances"])


def test_detections_on_ignored_objects_change_nothing(dataset, annotation, result):
    truth = [annotation(1, 1, 3, LEFT), annotation(2, 1, 3, RIGHT), annotation(3, 1, 20, (45, 19, 65, 25))]
    found = [result(1, 3, LEFT, 0.9)]
    name = dataset(truth)
    before = ap_by_overlap(GroundTruth(name), found, categories=["cup"])
    after = ap_by_overlap(GroundTruth(name), [*found, result(1, 3, RIGHT, 0.95)], categories=["cup"])
    assert before[1] == after[1]  # the range of LEFT alone
    assert before[-1]["AP"] == 0
    assert after[-1]["AP"] == pytest.approx(100)


def test_equals_the_evaluator(dataset, evaluate, scene, tmp_path):
    truth, found = scene(1)
    name = dataset(truth, 12)
    evaluator = SubsetCOCOEvaluator(
        name,
        distributed=False,
        output_dir=str(tmp_path),
        category_subsets={"fruit": ["pear", "leaf"]},
        instance_subsets=[overlap_at_least(0.3), overlap_between(0, 0.5)],
    )
    expected = evaluate(evaluator, found)
    results = read_results(tmp_path / "coco_instances_results.json", GroundTruth(name))
    for categories, task in ((None, "segm"), (["pear", "leaf"], "segm_fruit")):
        rows = ap_by_overlap(GroundTruth(name), results, categories=categories, bins=[(0, 0.5)])
        for row, subset in zip(rows, ("", "_overlap_0-0.5", "_overlap_0.3"), strict=True):
            for metric in ("AP", "AP50", "AP75"):
                assert row[metric] == pytest.approx(expected[task + subset][metric]), (task, subset)
    per_category = [expected["segm"][f"AP-{key}"] for key in ("pear", "leaf")]
    assert rows[0]["AP"] == pytest.approx(np.mean(per_category))


def test_without_detections(dataset, annotation):
    truth = GroundTruth(dataset([annotation(1, 1, 3, LEFT)]))
    rows = ap_by_overlap(truth, [])
    assert rows[0] == {"overlap": "all", "instances": 1, "AP": 0, "AP50": 0, "AP75": 0}
    assert math.isnan(rows[-1]["AP"])
    nothing = attribute_false_positives(truth, [], seen=["cup"])
    assert nothing == FalsePositives()
    assert all(math.isnan(share) for share in nothing.shares().values())


def test_wrong_pixels_by_hand(dataset, annotation, result):
    """A pear of 10 x 10 whose mask has 216 pixels: 100 are right, 30 on a cup, 20 on a leaf, 60 on a crowd region."""
    truth = [
        annotation(1, 1, 8, (10, 10, 20, 20)),
        annotation(2, 1, 3, (20, 10, 25, 20)),
        annotation(3, 1, 20, (10, 20, 20, 24)),
        annotation(4, 1, 20, (0, 0, 10, 60), iscrowd=1),
    ]
    name, mask = dataset(truth), (5, 10, 23, 22)
    found = attribute_false_positives(GroundTruth(name), [result(1, 8, (10, 10, 20, 20), 0.9, mask)], seen=["cup"])
    assert found == FalsePositives(background=6, seen=30, unseen=20, detections=1)
    assert found.shares() == {name: pytest.approx(100 * count / 56) for name, count in
                              (("background", 6), ("seen", 30), ("unseen", 20))}  # fmt: skip
    swapped = attribute_false_positives(
        GroundTruth(name), [result(1, 8, (10, 10, 20, 20), 0.9, mask)], seen=["leaf", "pear"]
    )
    assert swapped == FalsePositives(background=6, seen=20, unseen=30, detections=1)


def test_boxes_decide_whose_mask_it_is(dataset, annotation, result):
    """Only the better one of two detections of a cup counts, none of another class, none with half of a box or less."""
    truth = [annotation(1, 1, 3, LEFT), annotation(2, 1, 8, RIGHT)]
    found = [
        result(1, 3, LEFT, 0.5, (5, 5, 25, 26)),
        result(1, 3, LEFT, 0.9, (5, 5, 25, 27)),
        result(1, 3, RIGHT, 0.9, (0, 0, 80, 60)),
        result(1, 8, (45, 5, 54, 25), 0.9, (0, 0, 80, 60)),
    ]
    name = dataset(truth)
    assert attribute_false_positives(GroundTruth(name), found, seen=["cup"]) == FalsePositives(40, 0, 0, 1)
    assert attribute_false_positives(GroundTruth(name), found, seen=["cup"], categories=["pear"]).detections == 0
    loose = attribute_false_positives(GroundTruth(name), found, seen=["cup"], box_iou=0.4)
    assert loose.detections == 2
    assert loose.seen == 400
    few = attribute_false_positives(GroundTruth(name), [*found, result(1, 20, NOWHERE, 1.0)], seen=["cup"], per_image=1)
    assert few.detections == 0


def test_where_objects_overlap_a_seen_one_decides_and_ones_own_is_right(dataset, annotation, result):
    """The pear's right half lies under a cup and a leaf; its mask goes on over ten more columns of both."""
    truth = [
        annotation(1, 1, 8, (10, 10, 30, 20)),
        annotation(2, 1, 3, (20, 10, 40, 20)),
        annotation(3, 1, 20, (20, 10, 40, 20)),
    ]
    found = [result(1, 8, (10, 10, 30, 20), 0.9, (10, 10, 40, 20))]
    name = dataset(truth)
    assert attribute_false_positives(GroundTruth(name), found, seen=["cup"]) == FalsePositives(0, 100, 0, 1)
    assert attribute_false_positives(GroundTruth(name), found, seen=["pear"]) == FalsePositives(0, 0, 100, 1)


def test_wrong_pixels_equal_those_that_are_drawn(dataset, scene, result):
    truth, found = scene(2)
    categories = (3, 8, 20)
    rng = np.random.default_rng(0)
    results = []
    for image_id, triples in found.items():
        for box, index, score in triples:
            x0, y0, x1, y1 = np.clip(np.array(box) + rng.integers(-6, 7, 4), 0, [80, 60] * 2).tolist()
            mask = (x0, y0, max(x1, x0 + 1), max(y1, y0 + 1))
            results.append(result(image_id, categories[index], box, score, mask))
    counted = attribute_false_positives(GroundTruth(dataset(truth, 12)), results, seen=["cup", "leaf"])

    def canvas(boxes):
        drawn = np.zeros((60, 80), bool)
        for x, y, w, h in boxes:
            drawn[y : y + h, x : x + w] = True
        return drawn

    def iou(one, other):
        inside = canvas([one["bbox"]]) & canvas([other["bbox"]])
        return inside.sum() / (canvas([one["bbox"]]) | canvas([other["bbox"]])).sum()

    expected = FalsePositives()
    for image_id in found:
        objects = [one for one in truth if one["image_id"] == image_id and not one["iscrowd"]]
        crowd = canvas([one["bbox"] for one in truth if one["image_id"] == image_id and one["iscrowd"]])
        on_seen = canvas([one["bbox"] for one in objects if one["category_id"] != 8])
        on_any = canvas([one["bbox"] for one in objects])
        free = {one["id"]: one for one in objects}
        for detection in sorted((one for one in results if one["image_id"] == image_id), key=lambda one: -one["score"]):
            own = [one for one in free.values() if one["category_id"] == detection["category_id"]]
            best = max(own, key=lambda one: iou(detection, one), default=None)
            if best is None or iou(detection, best) < 0.5:
                continue
            del free[best["id"]]
            wrong = mask_util.decode(detection["segmentation"]).astype(bool) & ~canvas([best["bbox"]])
            expected.detections += 1
            expected.seen += int((wrong & on_seen).sum())
            expected.unseen += int((wrong & on_any & ~on_seen).sum())
            expected.background += int((wrong & ~on_any & ~crowd).sum())
    assert expected.detections > 5
    assert min(expected.seen, expected.unseen, expected.background) > 0
    assert counted == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON file"),
        ("{}", "is no list of predictions"),
        ([{"image_id": 1, "category_id": 3, "score": 1}], "prediction 0 has no bbox, segmentation"),
        ("other image", "prediction 0 is of image 99, category 3"),
        ("other category", "prediction 0 is of image 1, category 4"),
    ],
)
def test_files_that_cannot_be_read(dataset, annotation, result, tmp_path, content, message):
    others = {"other image": [result(99, 3, LEFT, 1)], "other category": [result(1, 4, LEFT, 1)]}
    content = others.get(content, content) if isinstance(content, str) else content
    path = tmp_path / "results.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(DatasetError, match=message):
        read_results(path, GroundTruth(dataset([annotation(1, 1, 3, LEFT)])))


def test_unknown_categories(dataset, annotation):
    truth = GroundTruth(dataset([annotation(1, 1, 3, LEFT)]))
    with pytest.raises(DatasetError, match=r"no category 'cups' \(near: cup\)"):
        ap_by_overlap(truth, [], categories=["cups"])
    with pytest.raises(DatasetError, match="no category split 'coco_vok'"):
        attribute_false_positives(truth, [], seen="coco_vok")
