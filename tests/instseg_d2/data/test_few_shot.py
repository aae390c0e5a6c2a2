import numpy as np
import pytest
from detectron2.structures import BoxMode

from instseg_d2.data import DatasetError, FewShot

CLASSES = ["green", "red"]


def many_records(images=12, seed=0):
    rng = np.random.default_rng(seed)
    number = iter(range(10**6))
    return [
        {
            "image_id": image,
            "annotations": [
                {
                    "id": next(number),
                    "bbox": [*rng.uniform(0, 50, 2).tolist(), 10, 10],
                    "bbox_mode": BoxMode.XYWH_ABS,
                    "category_id": int(rng.integers(2)),
                    "iscrowd": 0,
                    "segmentation": [[0, 0, 9, 0, 9, 9]],
                }
                for _ in range(5)
            ],
        }
        for image in range(images)
    ]


def drawn(records):
    """Class and id of the annotations that still have a mask."""
    return sorted(
        (one["category_id"], one["id"])
        for record in records
        for one in record["annotations"]
        if one.get("has_mask", True)
    )


def test_few_shot_draws_instances():
    records = many_records()
    result = FewShot(shots=4, seed=1)(records, CLASSES)
    assert [category for category, _ in drawn(result)] == [0] * 4 + [1] * 4
    by_id = {record["image_id"]: record for record in records}
    for record in result:
        assert len(record["annotations"]) == 5
        assert any(one.get("has_mask", True) for one in record["annotations"])
        for one, whole in zip(record["annotations"], by_id[record["image_id"]]["annotations"], strict=True):
            if one.get("has_mask", True):
                assert one == whole
            else:
                kept = {key: whole[key] for key in ("id", "bbox", "bbox_mode", "category_id")}
                assert one == {**kept, "has_mask": False, "iscrowd": 1}


def test_few_shot_depends_on_the_seed_alone():
    records = many_records()
    choice = drawn(FewShot(shots=4, seed=1)(records, CLASSES))
    shuffled = [{**record, "annotations": record["annotations"][::-1]} for record in records[::-1]]
    assert drawn(FewShot(shots=4, seed=1)(shuffled, CLASSES)) == choice
    # What the draw was when this was written, on any machine and in any process.
    assert choice == [(0, 13), (0, 30), (0, 47), (0, 51), (1, 3), (1, 11), (1, 41), (1, 53)]
    assert drawn(FewShot(shots=4, seed=2)(records, CLASSES)) != choice
    assert set(choice) < set(drawn(FewShot(shots=8, seed=1)(records, CLASSES)))


def test_few_shot_of_some_categories():
    records = many_records()
    named = drawn(FewShot(shots=3, categories=["red"])(records, CLASSES))
    assert [category for category, _ in named] == [1] * 3
    both = drawn(FewShot(shots=3, categories=["red"], other_shots=9)(records, CLASSES))
    assert [category for category, _ in both] == [0] * 9 + [1] * 3
    assert set(named) < set(both)


def test_few_shot_says_how_many_there_are():
    records = many_records(images=2)
    for one in records[0]["annotations"]:
        one["category_id"] = 0
    for one in records[1]["annotations"]:
        one["category_id"] = 1
    red = records[1]["annotations"]
    red[0]["iscrowd"], red[1]["segmentation"], red[2]["bbox"] = 1, [], [3, 3, 0, 10]
    assert len(drawn(FewShot(shots=2)(records, CLASSES))) == 4
    with pytest.raises(DatasetError, match=r"in 2 images for red \(2 of 3\), unused \(0 of 3\); ask for fewer shots"):
        FewShot(shots=3)(records, [*CLASSES, "unused"])
    with pytest.raises(DatasetError, match=r"for green \(5 of 6\);"):
        FewShot(shots=1, categories=["red"], other_shots=6)(records, CLASSES)
