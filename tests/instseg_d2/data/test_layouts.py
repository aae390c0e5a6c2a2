import itertools
import json

import numpy as np
import pytest
from pycocotools import mask as mask_util

from instseg_d2.data import validate_coco, write_occshapes
from instseg_d2.data.synthetic import CATEGORIES, Look, Rendering, Scene, SceneObject, occshapes_scene, render
from instseg_d2.data.synthetic.contact_sheet import draw_contact_sheet
from instseg_d2.data.synthetic.layouts import (
    amodal_coco_content,
    annotated,
    coco_content,
    cocoa_content,
    image_truth,
    kins_content,
)

GREY = Look(colors=((90.0, 90.0, 90.0), (90.0, 90.0, 90.0)))
DISC = [category.name for category in CATEGORIES].index("disc")
SEED = 6


def disc(x, y, radius):
    return SceneObject(category=DISC, center=(x, y), radius=radius, look=GREY, proportions=(1.0, 0.0))


@pytest.fixture(scope="module")
def chain():
    """From near to far: a, b behind a, c behind b (not touching a), a lone d, and e hidden but for nothing."""
    objects = (disc(20, 30, 8), disc(30, 30, 8), disc(40, 30, 8), disc(60, 60, 5), disc(20, 30, 4))
    scene = Scene(80, 80, objects, GREY)
    return image_truth(0, scene, render(scene))


@pytest.fixture(scope="module")
def drawn():
    """Truths of some scenes of a set, and the drawings that they describe, by image id."""
    scenes = [occshapes_scene(SEED, index) for index in range(12)]
    renderings = [render(scene) for scene in scenes]
    truths = [image_truth(n, *pair) for n, pair in enumerate(zip(scenes, renderings, strict=True))]
    return truths, {n + 1: rendering for n, rendering in enumerate(renderings)}


def masks(drawing: Rendering, kind: str):
    return getattr(drawing, kind)[annotated(drawing)]


def decode(rle):
    return mask_util.decode(rle).astype(bool)


def test_depth_occluders_layers_and_clusters_by_hand(chain):
    a, b, c, d = chain.instances
    assert chain.left_out == 1
    assert [one.depth for one in chain.instances] == [0, 1, 2, 3]
    assert [one.occluders for one in chain.instances] == [(), (a.id,), (b.id,), ()]
    assert [one.layer for one in chain.instances] == [1, 2, 3, 0]
    assert [one.cluster for one in chain.instances] == [1, 1, 1, 2]
    assert (a.covered, d.covered) == (0, 0)
    # Lens of two circles of radius 8 at distance 10: 2 r^2 acos(d / 2r) - d / 2 * sqrt(4 r^2 - d^2) = 52.8.
    assert b.covered == pytest.approx(52.8 / (np.pi * 64), abs=0.02)
    assert b.hidden.area == b.amodal.area - b.visible.area > 0
    assert (a.hidden.area, a.hidden.box) == (0, [0, 0, 0, 0])


def test_hidden_object_is_in_no_layout_and_order_has_no_gap(chain):
    (listed,) = cocoa_content({}, [chain])["annotations"]
    assert listed["depth_constraint"] == "1-2,2-3"
    assert [region["order"] for region in listed["regions"]] == [1, 2, 3, 4]
    assert ["visible_mask" in region for region in listed["regions"]] == [False, True, True, False]
    kins = kins_content({}, [chain])["annotations"]
    assert [(one["oco_id"], one["ico_id"]) for one in kins] == [(1, 1), (1, 2), (1, 3), (2, 0)]
    assert len(coco_content({}, [chain])["annotations"]) == len(amodal_coco_content({}, [chain])["annotations"]) == 4


def test_layer_counts_the_longest_chain_of_occluders():
    # c lies behind a and behind b, which lies behind a.
    scene = Scene(80, 80, (disc(30, 30, 8), disc(40, 30, 8), disc(35, 38, 8)), GREY)
    truth = image_truth(4, scene, render(scene))
    assert [one.layer for one in truth.instances] == [1, 2, 3]
    assert truth.instances[2].occluders == (500, 501)


def test_scene_without_objects():
    scene = Scene(40, 48, (), GREY)
    truth = image_truth(0, scene, render(scene))
    assert truth.instances == ()
    for layout in (coco_content, amodal_coco_content, kins_content):
        assert layout({}, [truth])["annotations"] == []
    assert cocoa_content({}, [truth])["annotations"][0]["regions"] == []


def test_visible_is_amodal_less_everything_nearer(drawn):
    truths, drawings = drawn
    some_are_hidden = False
    for truth in truths:
        drawing = drawings[truth.image["id"]]
        for one, number in zip(truth.instances, annotated(drawing), strict=True):
            # Objects without an annotation hide others too.
            nearer = drawing.amodal[:number].any(axis=0)
            whole = decode(one.amodal.rle)
            np.testing.assert_array_equal(decode(one.visible.rle), whole & ~nearer)
            np.testing.assert_array_equal(decode(one.hidden.rle), whole & nearer)
            assert one.covered == pytest.approx((whole & nearer).sum() / whole.sum(), abs=1e-4)
            some_are_hidden |= bool((whole & nearer).any())
    assert some_are_hidden


def test_occluders_are_the_nearer_ones_that_meet(drawn):
    truths, _ = drawn
    for truth in truths:
        wholes = [decode(one.amodal.rle) for one in truth.instances]
        by_id = {one.id: one for one in truth.instances}
        assert len(by_id) == len(truth.instances)
        for one, whole in zip(truth.instances, wholes, strict=True):
            expected = [other.id for other in truth.instances[: one.depth] if (wholes[other.depth] & whole).any()]
            assert list(one.occluders) == expected
            for other in map(by_id.__getitem__, one.occluders):
                assert other.depth < one.depth
                assert 0 < other.layer < one.layer
                assert other.cluster == one.cluster
        for one, other in itertools.combinations(truth.instances, 2):
            meets = (wholes[one.depth] & wholes[other.depth]).any()
            assert not meets or one.cluster == other.cluster
        assert all(
            (one.layer == 0) == (sum(o.cluster == one.cluster for o in truth.instances) == 1) for one in by_id.values()
        )


def test_every_layout_decodes_to_the_drawing(drawn):
    truths, drawings = drawn
    visible = coco_content({}, truths)["annotations"]
    amodal = amodal_coco_content({}, truths)["annotations"]
    kins = kins_content({}, truths)["annotations"]
    regions = [region for listed in cocoa_content({}, truths)["annotations"] for region in listed["regions"]]
    position = 0
    for image_id, drawing in drawings.items():
        for seen, whole in zip(masks(drawing, "visible"), masks(drawing, "amodal"), strict=True):
            v, a, k, r = visible[position], amodal[position], kins[position], regions[position]
            position += 1
            assert v["image_id"] == a["image_id"] == k["image_id"] == image_id
            for rle in (v["segmentation"], v["visible_segmentation"], a["visible_segmentation"], k["i_segm"]):
                np.testing.assert_array_equal(decode(rle), seen)
            for rle in (a["segmentation"], v["amodal_segmentation"], a["amodal_segmentation"], k["a_segm"]):
                np.testing.assert_array_equal(decode(rle), whole)
            np.testing.assert_array_equal(decode(r["segmentation"]), whole)
            np.testing.assert_array_equal(decode(r.get("visible_mask", r["segmentation"])), seen)
            assert ("invisible_mask" in r) == bool((whole & ~seen).any())
            if "invisible_mask" in r:
                np.testing.assert_array_equal(decode(r["invisible_mask"]), whole & ~seen)
            assert (v["area"], a["area"]) == (k["i_area"], k["a_area"]) == (seen.sum(), whole.sum())
            assert (v["bbox"], a["bbox"]) == (k["i_bbox"], k["a_bbox"])
            assert v["covered"] == a["covered"] == a["occlude_rate"] == r["occlude_rate"]
            assert a["order"] == r["order"] == v["depth"] + 1
            assert CATEGORIES[v["category_id"] - 1].name == a["name"] == r["name"]
    assert position == len(visible) == len(amodal) == len(kins) == len(regions)


def test_order_of_drawing_changes_nothing(drawn):
    truths, _ = drawn
    for index in (11, 3, 0):
        scene = occshapes_scene(SEED, index)
        assert image_truth(index, scene, render(scene)) == truths[index]


def test_amodal_and_visible_files_are_clean_coco(tmp_path):
    write_occshapes(tmp_path / "set", images=3, progress=False)
    for name in ("annotations.json", "annotations_amodal.json"):
        assert (
            validate_coco(json.loads((tmp_path / "set" / name).read_text()), image_root=tmp_path / "set/images") == []
        )


def test_contact_sheet_hatches_what_is_hidden_and_outlines_the_whole(chain):
    image = np.full((80, 80, 3), 128, np.uint8)
    annotations = coco_content({}, [chain])["annotations"]
    sheet = draw_contact_sheet([image, image], [annotations, []], columns=1)
    # Two rows of three pictures, enlarged three times, in a frame of 2 px.
    assert sheet.shape == (2 * 244, 3 * 240 + 4, 3)
    plain, visible, amodal = (sheet[2:242, 2 + 240 * k : 242 + 240 * k] for k in range(3))
    assert (plain == 128).all()
    whole, seen = (
        decode(annotations[1][key]).repeat(3, 0).repeat(3, 1) for key in ("amodal_segmentation", "segmentation")
    )
    # Labels lie over both pictures.
    assert (visible[seen] != 128).any(axis=1).mean() > 0.98
    assert (amodal[whole & ~seen] != 64).any(axis=1).mean() > 0.2
    untouched = np.ones((240, 240), bool)
    for annotation in annotations:
        untouched &= ~decode(annotation["amodal_segmentation"]).repeat(3, 0).repeat(3, 1)
    assert (amodal[untouched] == 64).all(axis=1).mean() > 0.98
    second = sheet[246:486, 482:722]
    assert (second == 64).all()
