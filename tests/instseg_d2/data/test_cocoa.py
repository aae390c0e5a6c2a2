import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, BoxMode, Instances
from pycocotools import mask as mask_util

from instseg_d2.data import DatasetError, write_occshapes
from instseg_d2.data.datasets import register_cocoa
from instseg_d2.data.synthetic import occshapes_scene, render
from instseg_d2.data.synthetic.layouts import annotated

SAMPLES = Path(__file__).resolve().parents[4] / "shared/data/cocoa_amodal_samples"
needs_samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason="the COCOA samples are not here")
SIZE = (40, 60)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def names():
    """A function that gives fresh names, forgotten after the test."""
    given = []

    def fresh():
        given.append(f"test_cocoa_{len(given)}")
        return given[-1]

    yield fresh
    for name in given:
        if name in DatasetCatalog.list():
            DatasetCatalog.remove(name)
        if name in MetadataCatalog.list():
            MetadataCatalog.remove(name)


def decoded(mask, size=SIZE):
    if isinstance(mask, list):
        mask = mask_util.merge(mask_util.frPyObjects(mask, *size))
    return mask_util.decode(mask).astype(bool)


def rle(mask):
    encoded = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": encoded["counts"].decode()}


def rectangle(top, left, bottom, right):
    mask = np.zeros(SIZE, bool)
    mask[top:bottom, left:right] = True
    return mask


@pytest.fixture
def published(content):
    """Regions of one image as published; the second is hidden to a half by the first, the third is stuff."""
    near, far = rectangle(0, 0, 20, 20), rectangle(10, 0, 30, 20)
    outline = [0.0, 0.0, 20.0, 0.0, 20.0, 20.0, 0.0, 20.0]
    regions = [
        {"name": "dog ", "segmentation": outline, "order": 1, "isStuff": 0, "occlude_rate": 0, "area": 400},
        {
            "name": "cat",
            "segmentation": rle(far),
            "order": 2,
            "isStuff": 0,
            "occlude_rate": 0.5,
            "area": 400,
            "visible_mask": rle(far & ~near),
            "invisible_mask": rle(far & near),
        },
        {"name": "grass", "segmentation": rle(~near & ~far), "order": 4, "isStuff": 1, "occlude_rate": 0, "area": 1800},
    ]
    listed = {"id": 5, "image_id": 2, "author": "x", "url": "", "regions": regions, "depth_constraint": "1-2,1-4,1-9"}
    return {"images": content["images"], "annotations": [listed]}


def test_published_form(published, write, names, caplog):
    path, root = write(published)
    name = names()
    with caplog.at_level("INFO", logger="instseg_d2"):
        dataset = register_cocoa(name, path, root)
    assert dataset.thing_classes == ("object",)
    assert "unknown-occluder: image 2: 'depth_constraint' has '1-9'" in caplog.text
    empty, record = DatasetCatalog.get(name)
    assert empty["annotations"] == []
    dog, cat, grass = record["annotations"]
    assert [a["name"] for a in (dog, cat, grass)] == ["dog", "cat", "grass"]
    assert [a["is_stuff"] for a in (dog, cat, grass)] == [0, 0, 1]
    assert [a["category_id"] for a in (dog, cat, grass)] == [0, 0, 0]
    assert [a["depth"] for a in (dog, cat, grass)] == [0, 1, 2]
    assert [a["covered"] for a in (dog, cat, grass)] == [0, 0.5, 0]
    assert [a["occluders"] for a in (dog, cat, grass)] == [[], [1], [1]]
    assert dog["segmentation"] == dog["visible_segmentation"] == [[0.0, 0.0, 20.0, 0.0, 20.0, 20.0, 0.0, 20.0]]
    np.testing.assert_array_equal(decoded(cat["segmentation"]), rectangle(10, 0, 30, 20))
    np.testing.assert_array_equal(decoded(cat["visible_segmentation"]), rectangle(20, 0, 30, 20))
    assert cat["bbox"] == [0, 10, 20, 20]
    visible = names()
    register_cocoa(visible, path, root, masks="visible")
    assert DatasetCatalog.get(visible)[1]["annotations"][1]["bbox"] == [0, 20, 20, 10]


def test_occluded_region_without_its_visible_mask_is_named(published, write, names):
    del published["annotations"][0]["regions"][1]["visible_mask"]
    with pytest.raises(DatasetError) as caught:
        register_cocoa(names(), *write(published))
    place = "no-visible-mask: annotation 2 of image 2 ('cat'), number 2 by depth: no 'visible_segmentation'"
    assert place in str(caught.value)


def test_plain_coco_file_is_no_amodal_set(content, write, names):
    with pytest.raises(DatasetError, match="used as COCOA:\n.*no-visible-mask: 3 times, first: annotation 11"):
        register_cocoa(names(), *write(content))


def test_annotation_of_a_single_image_says_how_to_combine(published, write, names):
    with pytest.raises(DatasetError, match="COCOA annotation of one image .*'images'"):
        register_cocoa(names(), *write(published["annotations"][0]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda listed: listed.pop("regions"), "missing-key|bad-annotation"),
        (lambda listed: listed["regions"][0].pop("order"), r"bad-order: annotation 1 of image 2 \('dog'\): no 'order'"),
        (
            lambda listed: listed["regions"][0].update(segmentation=[1, 2, 3, 4]),
            "bad-polygon: 2 times, first: annotation 1",
        ),
        (lambda listed: listed["regions"][0].pop("segmentation"), "no-amodal-mask: annotation 1 of image 2"),
        (lambda listed: listed.update(image_id=7), "unknown-image: 3 times, first: annotation 1 of image 7"),
        (lambda listed: listed["regions"].append("x"), "bad-annotation: annotation of image 2: 'regions'"),
    ],
)
def test_broken_regions_are_refused_with_the_place(published, write, names, change, message):
    change(published["annotations"][0])
    with pytest.raises(DatasetError, match=message):
        register_cocoa(names(), *write(published))


def test_image_annotated_twice_counts_once(published, write, names, caplog):
    published["annotations"].append({**published["annotations"][0], "id": 6})
    name = names()
    with caplog.at_level("INFO", logger="instseg_d2"):
        register_cocoa(name, *write(published))
    assert "annotated-twice: image 2" in caplog.text
    assert len(DatasetCatalog.get(name)[1]["annotations"]) == 3


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cocoa") / "set"
    write_occshapes(folder, images=5, seed=8, progress=False)
    return folder


def annotations(name):
    return [annotation for record in DatasetCatalog.get(name) for annotation in record["annotations"]]


def test_both_forms_of_a_generated_set_give_the_drawing(generated, names):
    one, two = names(), names()
    single = register_cocoa(one, generated / "annotations_cocoa.json", generated / "images")
    classes = register_cocoa(two, generated / "annotations_amodal.json", generated / "images")
    assert (single.num_classes, classes.num_classes) == (1, 10)
    expected = []
    for index in range(5):
        drawing = render(occshapes_scene(8, index))
        shown = annotated(drawing)
        expected += zip(drawing.amodal[shown], drawing.visible[shown], range(len(shown)), strict=True)
    for a, b, (whole, seen, depth) in zip(annotations(one), annotations(two), expected, strict=True):
        for annotation in (a, b):
            np.testing.assert_array_equal(mask_util.decode(annotation["segmentation"]), whole)
            np.testing.assert_array_equal(mask_util.decode(annotation["visible_segmentation"]), seen)
            assert annotation["depth"] == depth
        assert (a["covered"], a["name"], len(a["occluders"])) == (b["covered"], b["name"], len(b["occluders"]))


def test_masks_of_either_coco_file_can_be_asked_for(generated, names):
    # The box of the file belongs to its own masks, not to those that are asked for.
    amodal, visible = names(), names()
    register_cocoa(amodal, generated / "annotations.json", generated / "images", masks="amodal")
    register_cocoa(visible, generated / "annotations_amodal.json", generated / "images", masks="visible")
    files = [json.loads((generated / f"annotations{kind}.json").read_text()) for kind in ("_amodal", "")]
    for found, file in zip((amodal, visible), files, strict=True):
        for annotation, expected in zip(annotations(found), file["annotations"], strict=True):
            assert (annotation["bbox"], annotation["segmentation"]) == (expected["bbox"], expected["segmentation"])


def perfect(record, key):
    """The truth under a key as predictions."""
    size = record["height"], record["width"]
    instances = Instances(size)
    masks = np.stack([decoded(annotation[key], size) for annotation in record["annotations"]])
    instances.pred_masks = torch.as_tensor(masks)
    boxes = [mask_util.toBbox(rle(mask)) for mask in masks]
    instances.pred_boxes = Boxes(BoxMode.convert(torch.tensor(np.array(boxes)), BoxMode.XYWH_ABS, BoxMode.XYXY_ABS))
    instances.pred_classes = torch.tensor([annotation["category_id"] for annotation in record["annotations"]])
    instances.scores = torch.ones(len(masks))
    return {"instances": instances}


@pytest.mark.parametrize("masks", ["amodal", "visible"])
def test_evaluation_measures_the_masks_that_were_asked_for(generated, names, masks):
    name = names()
    register_cocoa(name, generated / "annotations_amodal.json", generated / "images", masks=masks)
    results = {}
    for key in ("amodal_segmentation", "visible_segmentation"):
        evaluator = COCOEvaluator(name, distributed=False, use_fast_impl=False)
        evaluator.reset()
        for record in DatasetCatalog.get(name):
            evaluator.process([record], [perfect(record, key)])
        with contextlib.redirect_stdout(io.StringIO()):
            results[key] = evaluator.evaluate()
    right, wrong = results.pop(f"{masks}_segmentation"), results.popitem()[1]
    assert right["segm"]["AP"] == right["bbox"]["AP"] == pytest.approx(100)
    assert wrong["segm"]["AP"] < 80


@needs_samples
def test_real_samples_in_both_forms(tmp_path, names):
    passed_on = json.loads((SAMPLES / "annotations/amodal.json").read_text())
    single = [json.loads((SAMPLES / f"original_json/{n}.json").read_text()) for n in range(1, 6)]
    published = tmp_path / "published.json"
    published.write_text(json.dumps({"images": passed_on["images"], "annotations": single}))
    one, two = names(), names()
    register_cocoa(one, SAMPLES / "annotations/amodal.json", SAMPLES / "images")
    register_cocoa(two, published, SAMPLES / "images")
    assert len(annotations(one)) == 48
    stated = {annotation["id"]: annotation for annotation in passed_on["annotations"]}
    for a, b in zip(annotations(one), annotations(two), strict=True):
        assert {**a, "is_stuff": 0} == {**b, "is_stuff": 0, "id": a["id"]}
        assert bool(a["is_stuff"]) == bool(b["is_stuff"])
        assert a["bbox"] == stated[a["id"]]["bbox"]
        # What its authors computed from their own drawing of the polygons.
        assert a["covered"] == pytest.approx(stated[a["id"]]["occlude_rate"], abs=0.01)
    assert sum(a["is_stuff"] for a in annotations(one)) == 1
    assert sum(a["covered"] > 0 for a in annotations(one)) == 24
    for record in DatasetCatalog.get(one):
        assert sorted(a["depth"] for a in record["annotations"]) == list(range(len(record["annotations"])))
