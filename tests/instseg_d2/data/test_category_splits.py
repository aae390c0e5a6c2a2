import pytest
from detectron2.data import MetadataCatalog

from instseg_d2.data import CATEGORY_SPLITS, SEEN, UNSEEN, DatasetError, category_names, other_categories
from instseg_d2.data.category_splits import seen_and_unseen
from instseg_d2.data.synthetic import CATEGORIES

METADATA = MetadataCatalog.get("coco_2017_val")
COCO = METADATA.thing_classes


def indices(split):
    return [COCO.index(name) for name in CATEGORY_SPLITS[split]]


def test_voc_and_nonvoc():
    voc = indices("coco_voc")
    assert voc == [0, 1, 2, 3, 4, 5, 6, 8, 14, 15, 16, 17, 18, 19, 39, 56, 57, 58, 60, 62]
    json_ids = {index: number for number, index in METADATA.thing_dataset_id_to_contiguous_id.items()}
    voc_ids = [1, 2, 3, 4, 5, 6, 7, 9, 16, 17, 18, 19, 20, 21, 44, 62, 63, 64, 67, 72]
    assert [json_ids[index] for index in voc] == voc_ids
    nonvoc = indices("coco_nonvoc")
    assert len(nonvoc) == 60
    assert sorted(voc + nonvoc) == list(range(80))
    assert other_categories("coco_voc", COCO) == CATEGORY_SPLITS["coco_nonvoc"]
    assert other_categories("coco_nonvoc", COCO) == CATEGORY_SPLITS["coco_voc"]


def test_sweep_is_nested():
    opmask = [9, 10, 13, 23, 24, 25, 26, 36, 42, 47, 48, 49, 52, 54, 61, 63, 70, 74, 76, 79]
    assert indices("coco_seen20") == indices("coco_voc")
    assert indices("coco_seen30") == indices("coco_voc") + opmask[:10]
    assert indices("coco_seen40") == indices("coco_voc") + opmask
    for small, large in ((40, 50), (50, 60)):
        assert CATEGORY_SPLITS[f"coco_seen{large}"][:small] == CATEGORY_SPLITS[f"coco_seen{small}"]
        assert len(set(CATEGORY_SPLITS[f"coco_seen{large}"])) == large
    assert set(CATEGORY_SPLITS["coco_never_seen"]) == set(COCO) - set(CATEGORY_SPLITS["coco_seen60"])
    # The draw of seed 3: another order would make other experiments.
    assert CATEGORY_SPLITS["coco_seen50"][40:43] == ("remote", "tennis racket", "skis")
    assert not set(CATEGORY_SPLITS["coco_never_seen"]) & set(CATEGORY_SPLITS["coco_seen60"])


def test_occshapes():
    names = [category.name for category in CATEGORIES]
    assert CATEGORY_SPLITS["occshapes_seen"] == tuple(SEEN)
    assert other_categories("occshapes_seen", names) == tuple(UNSEEN)
    assert len(SEEN) == len(UNSEEN) == 5


def test_names_come_in_the_order_of_the_data_set():
    assert category_names(["cup", "bowl", "cup"], ["bowl", "fork", "cup"]) == ("bowl", "cup")
    assert other_categories(["cup"], ["bowl", "fork", "cup"]) == ("bowl", "fork")


def test_seen_and_unseen():
    halves = seen_and_unseen(["cup"], ["bowl", "fork", "cup"], all=None, small="split")
    assert halves == {"seen": ("cup",), "unseen": ("bowl", "fork"), "all": None, "small": "split"}
    assert len(seen_and_unseen("coco_seen30", COCO)["unseen"]) == 50
    assert seen_and_unseen(COCO, COCO) == {"seen": tuple(COCO)}
    assert seen_and_unseen([], COCO) == {"unseen": tuple(COCO)}
    with pytest.raises(DatasetError, match=r"no category 'aeroplane' \(near: airplane\)"):
        seen_and_unseen(["aeroplane"], COCO)


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        ("coco_vok", r"no category split 'coco_vok' \(near: coco_voc"),
        ("person", r"the splits are coco_voc, .*names of categories as a list: \['person'\]"),
        (["person", "aeroplane"], r"no category 'aeroplane' \(near: airplane\); it has 80: person, bicycle"),
        (["xyzzy"], r"no category 'xyzzy'; it has 80"),
        ("occshapes_seen", r" of the split 'occshapes_seen'; it has 80"),
    ],
)
def test_unknown_names(categories, message):
    with pytest.raises(DatasetError, match=message):
        category_names(categories, COCO)


def test_long_lists_are_cut():
    message = "'motorcycle', 'airplane' and 15 more of the split 'coco_voc'; it has 1: cup"
    with pytest.raises(DatasetError, match=message):
        category_names("coco_voc", ["cup"])
