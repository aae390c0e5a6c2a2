"""What becomes of the truth behind a pasted object, on hand-drawn scenes of 8 x 10 px."""

import copy

import numpy as np
import pytest
from detectron2.structures import BoxMode

from instseg_d2.data.occlusion_truth import cover, cutting_mask, nearest_annotation, visible_mask
from instseg_d2.data.run_lengths import decode_mask, encode_mask

SIZE = (8, 10)


def filled(x0, y0, x1, y1):
    mask = np.zeros(SIZE, dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def polygon(x0, y0, x1, y1):
    return [[float(value) for value in (x0, y0, x1, y0, x1, y1, x0, y1)]]


def same(encoded, expected):
    return (decode_mask(encoded, *SIZE) == expected).all()


# A square of 16 px, whose right half the object hides, and one that it does not meet.
SQUARE, APART = (2, 2, 6, 6), (7, 6, 10, 8)
FRONT = filled(4, 0, 7, 8)


def coco(key, box, **more):
    x0, y0, x1, y1 = box
    area = (x1 - x0) * (y1 - y0)
    return {
        "id": key,
        "category_id": key,
        "iscrowd": 0,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": area,
        "segmentation": polygon(*box),
        **more,
    }


def full(key, box, depth, occluders=(), masks="visible", seen=None):
    """An annotation as OccShapes has it, of an instance of which all or `seen` is visible."""
    whole, visible = encode_mask(filled(*box)), encode_mask(filled(*(seen or box)))
    area = decode_mask(visible, *SIZE).sum() / decode_mask(whole, *SIZE).sum()
    return coco(
        key,
        box if masks == "amodal" else seen or box,
        segmentation=whole if masks == "amodal" else visible,
        amodal_segmentation=whole,
        visible_segmentation=visible,
        covered=round(1 - float(area), 4),
        depth=depth,
        occluders=list(occluders),
    )


def test_plain_coco_masks_boxes_and_areas():
    before = [coco(1, SQUARE), coco(2, APART)]
    unchanged = copy.deepcopy(before)
    first, second = cover(before, FRONT, identity=-1)
    assert same(first["segmentation"], filled(2, 2, 4, 6))
    assert (first["bbox"], first["area"]) == ([2, 2, 2, 4], 8)
    assert second == before[1]
    assert before == unchanged
    # What the file does not say is not made up.
    assert first.keys() == before[0].keys()


def test_boxes_stay_in_the_mode_of_the_record():
    annotation = {**coco(1, SQUARE), "bbox": list(SQUARE), "bbox_mode": BoxMode.XYXY_ABS}
    assert cover([annotation], FRONT, identity=-1)[0]["bbox"] == [2, 2, 4, 6]


def test_visible_masks_with_amodal_truth():
    # The second is hidden by the first where they meet: 3 x 2 of its 3 x 5 px are seen.
    before = [full(1, SQUARE, 0), full(2, (3, 3, 6, 8), 1, occluders=[1], seen=(3, 6, 6, 8))]
    first, second = cover(before, FRONT, identity=-1)
    assert same(first["segmentation"], filled(2, 2, 4, 6))
    assert same(first["visible_segmentation"], filled(2, 2, 4, 6))
    assert same(first["amodal_segmentation"], filled(*SQUARE))
    assert (first["covered"], first["depth"], first["occluders"]) == (0.5, 1, [-1])
    assert same(second["visible_segmentation"], filled(3, 6, 4, 8))
    assert second["covered"] == pytest.approx(1 - 2 / 15, abs=1e-4)
    assert (second["depth"], second["occluders"], second["bbox"]) == (2, [-1, 1], [3, 6, 1, 2])


def test_amodal_masks_stay_and_what_is_seen_shrinks():
    before = [full(1, SQUARE, 0, masks="amodal")]
    (after,) = cover(before, FRONT, identity=-1, masks="amodal")
    assert same(after["segmentation"], filled(*SQUARE))
    assert (after["bbox"], after["area"]) == (before[0]["bbox"], before[0]["area"])
    assert same(after["visible_segmentation"], filled(2, 2, 4, 6))
    assert after["covered"] == 0.5


def test_amodal_masks_under_the_key_segmentation_alone():
    before = full(2, (3, 3, 6, 8), 1, occluders=[1], masks="amodal", seen=(3, 6, 6, 8))
    del before["amodal_segmentation"]
    # Once over what is hidden already, once over one of its three columns: 4 of 15 px are left.
    (over,), (column,) = (
        cover([before], filled(*box), identity=-4, masks="amodal") for box in ((3, 3, 5, 5), (3, 0, 4, 8))
    )
    assert over == {**before, "depth": 2, "occluders": [-4, 1]}
    assert (column["occluders"], column["covered"]) == ([-4, 1], pytest.approx(1 - 4 / 15, abs=1e-4))


def test_an_object_over_a_part_that_was_hidden_already_is_an_occluder_and_changes_no_mask():
    before = full(2, (3, 3, 6, 8), 1, occluders=[1], seen=(3, 6, 6, 8))
    (after,) = cover([before], filled(3, 3, 5, 5), identity=-4)
    assert after == {**before, "depth": 2, "occluders": [-4, 1]}


def test_the_hidden_share_without_an_amodal_mask():
    # Half was hidden, and of what is seen half is hidden now.
    (after,) = cover([coco(1, SQUARE, covered=0.5)], FRONT, identity=-1)
    assert after["covered"] == 0.75


def test_what_vanishes_is_dropped_and_occludes_nothing_any_more():
    before = [full(1, (4, 0, 6, 2), 0), full(2, SQUARE, 1, occluders=[1]), full(3, APART, 2, occluders=[1])]
    after = cover(before, FRONT, identity=-1)
    assert [one["id"] for one in after] == [2, 3]
    assert [one["occluders"] for one in after] == [[-1], []]
    # 8 px of the square are left.
    assert len(cover([coco(1, SQUARE)], FRONT, identity=-1, least_pixels=8)) == 1
    assert cover([coco(1, SQUARE)], FRONT, identity=-1, least_pixels=9) == []
    # An instance that is small for itself stays.
    assert cover([coco(1, APART)], FRONT, identity=-1, least_pixels=50) == [coco(1, APART)]


def test_hidden_and_missing_masks_keep_their_boxes():
    hidden = {"id": 1, "bbox": [4, 1, 2, 2], "category_id": 0, "iscrowd": 0, "has_mask": False}
    # Even where a hidden mask were still there, it is not looked at.
    leaking = {**coco(2, SQUARE), "has_mask": False, "segmentation": "not a mask"}
    bare = {"id": 3, "bbox": [4, 1, 2, 2], "category_id": 0}
    unseen = {**full(4, SQUARE, 0, masks="amodal")}
    del unseen["visible_segmentation"]
    after = cover([hidden, leaking, bare, unseen], FRONT, identity=-1, masks="amodal")
    assert after == [hidden, leaking, bare, {**unseen, "depth": 1}]
    assert visible_mask(hidden) is visible_mask(leaking) is visible_mask(bare) is visible_mask(unseen, "amodal") is None


def test_crowd_regions_lose_what_is_behind_too():
    (after,) = cover([coco(1, SQUARE, iscrowd=1, segmentation=encode_mask(filled(*SQUARE)))], FRONT, identity=-1)
    assert (after["area"], after["iscrowd"]) == (8, 1)


def test_entries_that_may_be_wrong_now_go():
    stale = {"bg_object_segmentation": [[0, 0, 1, 0, 1, 1]], "occlude_rate": 0.2, "ico_id": 3, "score": 1}
    before = [coco(1, SQUARE, name="cup", is_stuff=0, **stale), coco(2, APART, **stale)]
    first, second = cover(before, FRONT, identity=-1, kept_keys=["score"])
    assert not {"bg_object_segmentation", "occlude_rate", "ico_id"} & {*first, *second}
    assert (first["name"], first["is_stuff"], first["score"], second["score"]) == ("cup", 0, 1, 1)


def test_the_object_has_what_its_source_has():
    mask = filled(8, 0, 10, 4)
    plain = nearest_annotation(mask, {**coco(7, SQUARE), "bbox_mode": BoxMode.XYXY_ABS}, identity=-2)
    assert plain == {
        "id": -2,
        "category_id": 7,
        "iscrowd": 0,
        "bbox": [8, 0, 10, 4],
        "bbox_mode": BoxMode.XYXY_ABS,
        "area": 8,
        "segmentation": encode_mask(mask),
    }
    source = {**full(7, SQUARE, 3, occluders=[1]), "name": "cup", "is_stuff": 0, "score": 1}
    rich = nearest_annotation(mask, source, identity=-2, kept_keys=["score"])
    assert rich.keys() == source.keys()
    assert (rich["depth"], rich["covered"], rich["occluders"], rich["name"], rich["score"]) == (0, 0, [], "cup", 1)
    assert rich["amodal_segmentation"] == rich["visible_segmentation"] == encode_mask(mask)


def test_what_is_mostly_hidden_is_not_cut_out():
    assert cutting_mask(coco(1, SQUARE), most_covered=0.1)
    assert cutting_mask(coco(1, SQUARE, covered=0.1), most_covered=0.1)
    assert cutting_mask(coco(1, SQUARE, covered=0.2), most_covered=0.1) is None
    assert cutting_mask(coco(1, SQUARE), "amodal") is None
