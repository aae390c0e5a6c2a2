import copy
import json

import numpy as np
import pytest
from detectron2.structures import BoxMode

from instseg_d2.data import DatasetError, FewShot, Shot, ShotList

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
                assert one == {**kept, "has_mask": False, "iscrowd": 1, "ignored": True}


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


def test_plain_dropping_leaves_the_shots_alone():
    records = many_records()
    result = FewShot(shots=4, seed=1, ignore=False)(records, CLASSES)
    assert drawn(result) == drawn(FewShot(shots=4, seed=1)(records, CLASSES))
    assert sum(len(record["annotations"]) for record in result) == 8
    assert not any("ignored" in one for record in result for one in record["annotations"])


def test_crowds_of_the_same_category_are_ignored():
    records = many_records(images=1)
    for number, one in enumerate(records[0]["annotations"]):
        one.update(category_id=int(number > 2), iscrowd=int(number > 0))
    (record,) = FewShot(shots=1, categories=["green"])(records, CLASSES)
    assert [(one["id"], one.get("ignored", False)) for one in record["annotations"]] == [
        (0, False),
        (1, True),
        (2, True),
    ]


def change_everything(record):
    """Other annotations of "red", and one more."""
    red = [one for one in record["annotations"] if one["category_id"] == 1]
    for one in red:
        one.update(bbox=[1, 2, 3, 4], segmentation=[[7] * 6], iscrowd=1, id=one["id"] + 500)
    record["annotations"].append({"category_id": 1, "bbox": None})


@pytest.mark.parametrize("change", [change_everything, lambda record: record.update(annotations=_green(record))])
def test_annotations_of_categories_that_are_not_asked_for_are_never_read(change):
    """Self-check: without a base stage nothing of the base categories reaches the training."""
    records = many_records()
    for record in records:
        for one in record["annotations"]:
            one["occluders"] = [3]
    before = FewShot(shots=6, categories=["green"])(records, CLASSES)
    changed = copy.deepcopy(records)
    for record in changed:
        change(record)
    assert changed != records
    assert FewShot(shots=6, categories=["green"])(changed, CLASSES) == before
    annotations = [one for record in before for one in record["annotations"]]
    assert {one["category_id"] for one in annotations} == {0}
    assert not any("occluders" in one for one in annotations)


def _green(record):
    return [one for one in record["annotations"] if one["category_id"] == 0]


SETTINGS = {"shots": 3, "categories": ["red"], "other_shots": 2}


@pytest.fixture
def listed(tmp_path):
    """The list of a draw with the seed 5."""
    path = tmp_path / "shots.json"
    FewShot(**SETTINGS, seed=5).choose(many_records(), CLASSES).write(path)
    return path


def test_a_list_is_a_draw_that_can_be_kept(listed):
    records = many_records()
    kept = FewShot(**SETTINGS, file=listed)
    assert kept(records, CLASSES) == FewShot(**SETTINGS, seed=5)(records, CLASSES)
    assert kept(records, CLASSES) != FewShot(**SETTINGS)(records, CLASSES)
    again = kept.choose(records[::-1], CLASSES)
    assert again == ShotList.read(listed)
    assert (again.seed, again.categories) == (5, ("red",))


def test_a_list_as_json(tmp_path):
    shots = (Shot(12, 3, "red"), Shot(7, 9, "green"), Shot(12, 1, "red"))
    chosen = ShotList(shots=2, other_shots=1, seed=4, categories=("red",), drawn=shots)
    chosen.write(tmp_path / "shots.json")
    content = json.loads((tmp_path / "shots.json").read_text())
    red = [{"id": 1, "category": "red"}, {"id": 3, "category": "red"}]
    assert content == {
        "shots": 2,
        "other_shots": 1,
        "seed": 4,
        "categories": ["red"],
        "images": [
            {"image_id": 7, "annotations": [{"id": 9, "category": "green"}]},
            {"image_id": 12, "annotations": red},
        ],
    }
    assert set(ShotList.read(tmp_path / "shots.json").drawn) == set(shots)


def test_lists_that_do_not_fit(listed):
    records = many_records()
    with pytest.raises(DatasetError, match=r"was drawn with shots=3, not 4; categories=\['red'\], not \['green'\]$"):
        FewShot(shots=4, categories=["green"], other_shots=2, file=listed)(records, CLASSES)
    elsewhere = [{**record, "image_id": record["image_id"] + 100} for record in records]
    with pytest.raises(DatasetError, match=r"5 of its 5 shots are no instances .* drawn from another data set\?"):
        FewShot(**SETTINGS, file=listed)(elsewhere, CLASSES)
    with pytest.raises(DatasetError, match="5 of its 5 shots"):
        FewShot(**SETTINGS, file=listed)([*records, *records], CLASSES)
    shot = ShotList.read(listed).drawn[0]
    one = next(one for one in records[shot.image_id]["annotations"] if one["id"] == shot.annotation_id)
    for change in ({"id": 999}, {"category_id": 1 - one["category_id"]}, {"iscrowd": 1}, {"segmentation": []}):
        before = dict(one)
        one.update(change)
        with pytest.raises(DatasetError, match=rf"1 of its 5 shots .* such as annotation {shot.annotation_id} "):
            FewShot(**SETTINGS, file=listed)(records, CLASSES)
        one.update(before)


def test_annotations_without_ids_cannot_be_listed():
    records = many_records()
    for record in records:
        for one in record["annotations"]:
            del one["id"]
    with pytest.raises(DatasetError, match="without 'id'"):
        FewShot(shots=1).choose(records, CLASSES)


def damaged(change):
    def apply(path):
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return apply


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), "no list of shots .*: No such file"),
        (lambda path: path.write_text("{"), "is no list of shots: Expecting"),
        (lambda path: path.write_text("[]"), "is no list of shots, or a damaged one"),
        (damaged(lambda content: content.pop("seed")), r"damaged one \(KeyError: 'seed'\)"),
        (damaged(lambda content: content["images"].pop()), "has not the number of shots that it says for"),
        (damaged(lambda content: content["images"][0].update(image_id=[1])), r"damaged one \(TypeError"),
    ],
)
def test_files_that_are_no_lists(listed, spoil, message):
    spoil(listed)
    with pytest.raises(DatasetError, match=message):
        ShotList.read(listed)
