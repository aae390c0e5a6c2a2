"""Amodal AP: worked out by hand, and on the real sets with the truth as predictions."""

import contextlib
import io
import json
import math
import uuid
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances
from pycocotools import mask as mask_util

from instseg_d2.data import DatasetError, register_coco, write_occshapes
from instseg_d2.data.datasets import register_cocoa, register_kins
from instseg_d2.evaluation.amodal import AmodalEvaluator

SAMPLES = Path(__file__).resolve().parents[4] / "shared/data/cocoa_amodal_samples"
LEFT, RIGHT, NOWHERE = (5, 5, 25, 25), (45, 5, 65, 25), (5, 40, 15, 50)

fast_or_not = pytest.mark.parametrize("fast", [True, False], ids=["fast", "pycocotools"])


@pytest.fixture
def amodal(dataset):
    """Like `dataset`, a set of amodal masks."""

    def make(annotations):
        name = dataset(annotations)
        MetadataCatalog.get(name).masks = "amodal"
        return name

    return make


@pytest.fixture
def scene_of_two(annotation):
    """A thing, a cup, and a region of stuff, a pear; found as leaf and cup, with a false cup between by score."""
    truth = [annotation(1, 1, 3, LEFT, is_stuff=0), annotation(2, 1, 8, RIGHT, is_stuff=1)]
    return truth, {1: [(LEFT, 2, 0.9), (NOWHERE, 0, 0.8), (RIGHT, 0, 0.7)]}


@fast_or_not
def test_cocoa_by_hand(amodal, evaluate, scene_of_two, fast):
    """Without classes: hit, false, hit.

    All: precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1. Things: hit, false, ignored. Stuff: ignored, false, hit.
    """
    truth, found = scene_of_two
    name = amodal(truth)
    evaluator = AmodalEvaluator(name, distributed=False, protocol="cocoa", use_fast_impl=fast)
    results = evaluate(evaluator, found)
    assert results["amodal"] == pytest.approx({"AP_all": 100 * (51 + 50 * 2 / 3) / 101, "AP_t": 100, "AP_s": 50})
    assert results["amodal"]["AP_all"] == results["segm"]["AP"]
    assert results["segm_stuff"]["AP50"] == pytest.approx(50)
    # The catalog and the predictions of the caller keep their classes.
    assert MetadataCatalog.get(name).thing_classes == ["cup", "pear", "leaf"]


@fast_or_not
def test_kins_by_hand(amodal, evaluate, scene_of_two, fast):
    """With classes: the cup has two false detections, the pear none at all; nothing is found."""
    truth, found = scene_of_two
    results = evaluate(AmodalEvaluator(amodal(truth), distributed=False, use_fast_impl=fast), found)
    assert results["amodal"] == {"AP_det": 0, "AP_seg": 0}
    assert list(results) == ["bbox", "segm", "amodal"]
    right = {1: [(LEFT, 0, 0.9), (RIGHT, 1, 0.7)]}
    results = evaluate(AmodalEvaluator(amodal(truth), distributed=False, use_fast_impl=fast), right)
    assert results["amodal"] == pytest.approx({"AP_det": 100, "AP_seg": 100})


def test_predictions_without_masks_and_without_instances(amodal, evaluate, scene_of_two):
    truth, found = scene_of_two
    boxes_only = AmodalEvaluator(amodal(truth), ["bbox"], distributed=False)
    assert list(evaluate(boxes_only, found)["amodal"]) == ["AP_det"]
    assert "amodal" not in evaluate(
        AmodalEvaluator(amodal(truth), ["bbox"], distributed=False, protocol="cocoa"), found
    )
    nothing = evaluate(AmodalEvaluator(amodal(truth), ["segm"], distributed=False, protocol="cocoa"), {1: []})
    assert list(nothing["amodal"]) == ["AP_all", "AP_t", "AP_s"]
    assert all(math.isnan(value) for value in nothing["amodal"].values())
    assert evaluate(AmodalEvaluator(amodal(truth), distributed=False), {}) == {}


def test_things_alone_have_no_figure_for_stuff(amodal, annotation, evaluate):
    name = amodal([annotation(1, 1, 3, LEFT, isStuff=0)])
    figures = evaluate(AmodalEvaluator(name, distributed=False, protocol="cocoa"), {1: [(LEFT, 0, 0.9)]})["amodal"]
    assert figures["AP_all"] == pytest.approx(100)
    assert math.isnan(figures["AP_s"])


def test_what_cannot_be_evaluated(amodal, dataset, annotation, evaluate):
    plain = dataset([annotation(9, 1, 3, LEFT)])
    with pytest.raises(DatasetError, match=f"'{plain}' does not say which masks.*masks='amodal'"):
        AmodalEvaluator(plain)
    MetadataCatalog.get(plain).masks = "visible"
    with pytest.raises(DatasetError, match="has visible masks"):
        AmodalEvaluator(plain)
    name = amodal([annotation(9, 1, 3, LEFT)])
    with pytest.raises(ValueError, match="'coco'.*kins, cocoa"):
        AmodalEvaluator(name, protocol="coco")
    with pytest.raises(ValueError, match="knows no classes"):
        AmodalEvaluator(name, protocol="cocoa", category_subsets={"cups": ["cup"]})
    with pytest.raises(DatasetError, match="annotation 9 of image 1 has no 'is_stuff'"):
        evaluate(AmodalEvaluator(name, ["segm"], distributed=False, protocol="cocoa"), {1: [(LEFT, 0, 0.9)]})


def test_built_from_a_config_with_what_the_subset_evaluator_takes(amodal, annotation, evaluate):
    truth = [annotation(1, 1, 3, LEFT, covered=0.3), annotation(2, 1, 8, RIGHT, covered=0)]
    node = L(AmodalEvaluator)(
        dataset_name=amodal(truth),
        distributed=False,
        category_subsets={"cups": ["cup"]},
        occlusion_bins=[[0, 0], [0.2, 1.0]],
    )
    results = evaluate(instantiate(node), {1: [(LEFT, 0, 0.9)]})
    assert results["segm_cups"]["AP"] == pytest.approx(100)
    assert results["segm_by_occlusion"]["AP-0.2-1"] == pytest.approx(100)
    assert results["amodal"]["AP_seg"] == pytest.approx(50)


def perfect(name, key="segmentation"):
    """The truth of a registered set as predictions, with the masks of one key and their boxes."""
    inputs, outputs = [], []
    for record in DatasetCatalog.get(name):
        found = Instances((record["height"], record["width"]))
        masks = [annotation[key] for annotation in record["annotations"]]
        merged = [
            mask_util.merge(mask_util.frPyObjects(mask, *found.image_size)) if isinstance(mask, list) else mask
            for mask in masks
        ]
        boxes = [annotation["bbox"] for annotation in record["annotations"]]
        if key != "segmentation":
            boxes = [mask_util.toBbox(mask) for mask in merged]
        xyxy = BoxMode.convert(np.array(boxes).reshape(-1, 4), BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)
        found.pred_boxes = Boxes(torch.as_tensor(xyxy))
        found.pred_classes = torch.tensor([annotation["category_id"] for annotation in record["annotations"]])
        found.scores = torch.linspace(0.9, 0.5, len(masks))
        found.pred_masks = torch.stack([torch.from_numpy(mask_util.decode(mask)).bool() for mask in merged])
        inputs.append({"image_id": record["image_id"]})
        outputs.append({"instances": found})
    return inputs, outputs


def scored(evaluator, predictions):
    evaluator.reset()
    evaluator.process(*predictions)
    with contextlib.redirect_stdout(io.StringIO()):
        return evaluator.evaluate()["amodal"]


@pytest.fixture
def generated(tmp_path):
    """OccShapes of six images under the three layouts, registered; forgotten after the test."""
    out, stem = tmp_path / "occ", uuid.uuid4().hex[:8]
    write_occshapes(out, images=6, seed=3, size=64, progress=False)
    keys = {"extra_annotation_keys": ["visible_segmentation", "amodal_segmentation", "is_stuff"]}
    names = {kind: f"{kind}_{stem}" for kind in ("coco", "kins", "cocoa")}
    register_coco(names["coco"], out / "annotations_amodal.json", out / "images", masks="amodal", **keys)
    register_kins(names["kins"], out / "annotations_kins.json", out / "images", cache_folder=tmp_path)
    register_cocoa(names["cocoa"], out / "annotations_cocoa.json", out / "images", cache_folder=tmp_path)
    yield names
    for name in names.values():
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_generated_sets_with_the_truth_and_with_visible_masks_as_predictions(generated):
    for kind in ("coco", "kins"):
        name = generated[kind]
        evaluator = AmodalEvaluator(name, distributed=False)
        assert scored(evaluator, perfect(name)) == pytest.approx({"AP_det": 100, "AP_seg": 100})
        modal = scored(evaluator, perfect(name, "visible_segmentation"))
        assert 30 < modal["AP_seg"] < 95
        assert modal["AP_seg"] < modal["AP_det"] < 95
    figures = scored(
        AmodalEvaluator(generated["cocoa"], distributed=False, protocol="cocoa"), perfect(generated["cocoa"])
    )
    assert figures["AP_all"] == pytest.approx(100)
    assert figures["AP_t"] == pytest.approx(100)
    assert math.isnan(figures["AP_s"])


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the COCOA samples are not there")
def test_real_cocoa_has_things_and_stuff(tmp_path):
    name = f"samples_{uuid.uuid4().hex[:8]}"
    register_cocoa(name, SAMPLES / "annotations/amodal.json", SAMPLES / "images", cache_folder=tmp_path)
    try:
        evaluator = AmodalEvaluator(name, distributed=False, protocol="cocoa")
        whole = scored(evaluator, perfect(name))
        assert whole == pytest.approx({"AP_all": 100, "AP_t": 100, "AP_s": 100})
        visible = scored(evaluator, perfect(name, "visible_segmentation"))
        assert visible["AP_t"] < 80
        truth = json.loads(Path(MetadataCatalog.get(name).json_file).read_text())
        assert {one["is_stuff"] for one in truth["annotations"]} == {0, 1}
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
