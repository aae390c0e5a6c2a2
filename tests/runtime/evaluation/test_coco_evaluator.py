"""COCO metrics: hand-made cases, and the fast implementation against pycocotools on random ones."""

import contextlib
import io
import json
import math

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.evaluation.coco_evaluation import (
    _evaluate_box_proposals,
    _evaluate_predictions_on_coco,
    instances_to_coco_json,
)
from detectron2.evaluation.fast_eval_api import COCOeval_opt
from detectron2.structures import Boxes, BoxMode, Instances
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

H, W = 60, 80
CATEGORIES = [3, 8, 20]  # ids of the dataset; contiguous ones are 0, 1, 2


def quiet():
    return contextlib.redirect_stdout(io.StringIO())


def box_mask(x0, y0, x1, y1):
    mask = torch.zeros(H, W, dtype=torch.bool)
    mask[y0:y1, x0:x1] = True
    return mask


def annotation(i, image_id, category, box, crowd=0):
    x0, y0, x1, y1 = box
    rle = mask_util.encode(np.asfortranarray(box_mask(*box).numpy().astype(np.uint8)))
    rle["counts"] = rle["counts"].decode()
    polygon = [[x0, y0, x1, y0, x1, y1, x0, y1]]
    return {
        "id": i,
        "image_id": image_id,
        "category_id": category,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": (x1 - x0) * (y1 - y0),
        "iscrowd": crowd,
        "segmentation": rle if crowd else polygon,
    }


def instances(predictions, masks=True):
    """Instances of (box, class, score) triples."""
    result = Instances((H, W))
    result.pred_boxes = Boxes(torch.tensor([p[0] for p in predictions], dtype=torch.float32).reshape(-1, 4))
    result.pred_classes = torch.tensor([p[1] for p in predictions], dtype=torch.int64)
    result.scores = torch.tensor([p[2] for p in predictions], dtype=torch.float32)
    if masks:
        result.pred_masks = torch.stack([box_mask(*p[0]) for p in predictions] or [torch.zeros(H, W)])[
            : len(predictions)
        ].bool()
    return result


def write_json(path, annotations, n_images=3):
    content = {
        "info": {},
        "images": [{"id": i + 1, "height": H, "width": W, "file_name": f"{i}.jpg"} for i in range(n_images)],
        "categories": [{"id": c, "name": f"c{c}"} for c in CATEGORIES],
    }
    if annotations is not None:
        content["annotations"] = annotations
    path.write_text(json.dumps(content))


@pytest.fixture
def dataset(tmp_path):
    """Registers a COCO json and returns its name."""
    name = "coco_evaluator_test"

    def make(annotations, n_images=3):
        path = tmp_path / "gt.json"
        write_json(path, annotations, n_images)
        MetadataCatalog.get(name).set(
            json_file=str(path),
            thing_classes=[f"c{c}" for c in CATEGORIES],
            thing_dataset_id_to_contiguous_id={c: i for i, c in enumerate(CATEGORIES)},
        )
        return name

    yield make
    MetadataCatalog.pop(name)


def run(evaluator, outputs):
    evaluator.reset()
    for image_id, output in outputs.items():
        evaluator.process([{"image_id": image_id}], [output])
    with quiet():
        return evaluator.evaluate()


A, B = (10, 10, 30, 30), (40, 5, 60, 55)
GROUND_TRUTH = [annotation(1, 1, 3, A), annotation(2, 1, 8, B), annotation(3, 2, 8, A)]


@pytest.mark.parametrize("fast", [True, False])
def test_perfect_and_missing_detections(dataset, fast):
    evaluator = COCOEvaluator(dataset(GROUND_TRUTH), distributed=False, use_fast_impl=fast)
    outputs = {
        1: {"instances": instances([(A, 0, 0.9), (B, 1, 0.8)])},
        2: {"instances": instances([])},
    }
    results = run(evaluator, outputs)
    assert list(results) == ["bbox", "segm"]
    # one of the two objects of c8 is found, at precision 1: 51 of the 101 recall points
    half = 100 * 51 / 101
    for scores in results.values():
        assert list(scores) == ["AP", "AP50", "AP75", "APs", "APm", "APl", "AP-c3", "AP-c8", "AP-c20"]
        assert scores["AP-c3"] == pytest.approx(100)
        assert scores["AP-c8"] == pytest.approx(half)
        assert math.isnan(scores["AP-c20"])
        assert scores["AP"] == scores["AP50"] == scores["AP75"] == pytest.approx((100 + half) / 2)
        # A has 400 pixels and is small, B has 1000 and is small too
        assert scores["APs"] == pytest.approx(scores["AP"])
        assert math.isnan(scores["APm"])


def test_size_of_a_mask_is_its_area_not_that_of_its_box(dataset):
    # a mask of 50 x 30 = 1500 pixels, medium, as is its box; the predicted one covers 20 x 30 = 600 of them
    truth = annotation(1, 1, 3, (10, 10, 60, 40))
    output = instances([((10, 10, 60, 40), 0, 0.9)])
    output.pred_masks = box_mask(10, 10, 30, 40)[None]
    results = run(COCOEvaluator(dataset([truth]), distributed=False), {1: {"instances": output}})
    assert results["bbox"]["APm"] == pytest.approx(100)
    assert results["segm"]["APm"] == 0
    # a detection that matches nothing counts in the range of its own area: no small object exists
    assert math.isnan(results["segm"]["APs"])


def test_second_evaluation_gives_the_same(dataset):
    evaluator = COCOEvaluator(dataset(GROUND_TRUTH), ("bbox",), distributed=False)
    outputs = {1: {"instances": instances([(A, 0, 0.9)])}}
    first = run(evaluator, outputs)
    assert run(evaluator, outputs)["bbox"]["AP-c3"] == first["bbox"]["AP-c3"] == pytest.approx(100)


@pytest.mark.bundled_only
def test_evaluate_may_be_called_twice(dataset):
    evaluator = COCOEvaluator(dataset(GROUND_TRUTH), ("bbox",), distributed=False)
    first = run(evaluator, {1: {"instances": instances([(B, 1, 0.9)])}})
    with quiet():
        assert evaluator.evaluate()["bbox"]["AP-c8"] == first["bbox"]["AP-c8"]


def test_images_can_be_selected(dataset):
    evaluator = COCOEvaluator(dataset(GROUND_TRUTH), ("bbox",), distributed=False)
    evaluator.reset()
    evaluator.process([{"image_id": 1}], [{"instances": instances([(A, 0, 0.9), (B, 1, 0.8)])}])
    with quiet():
        results = evaluator.evaluate(img_ids=[1])
    assert results["bbox"]["AP"] == pytest.approx(100)


def test_files_in_the_output_folder(dataset, tmp_path):
    out = tmp_path / "out"
    evaluator = COCOEvaluator(dataset(GROUND_TRUTH), distributed=False, output_dir=str(out))
    run(evaluator, {1: {"instances": instances([(A, 1, 0.5)])}})
    (result,) = json.loads((out / "coco_instances_results.json").read_text())
    assert (result["image_id"], result["category_id"], result["score"]) == (1, 8, 0.5)
    assert result["bbox"] == [10, 10, 20, 20]
    assert mask_util.area(result["segmentation"]) == 400
    (saved,) = torch.load(out / "instances_predictions.pth")
    assert saved["image_id"] == 1
    assert saved["instances"][0]["score"] == 0.5


def test_no_predictions_give_nan(dataset):
    evaluator = COCOEvaluator(dataset(GROUND_TRUTH), ("bbox", "segm"), distributed=False)
    assert run(evaluator, {}) == {}
    results = run(evaluator, {1: {"instances": instances([])}})
    assert list(results["segm"]) == ["AP", "AP50", "AP75", "APs", "APm", "APl"]
    assert all(math.isnan(v) for scores in results.values() for v in scores.values())


def test_dataset_without_annotations_writes_the_json_only(dataset, tmp_path):
    evaluator = COCOEvaluator(dataset(None), distributed=False, output_dir=str(tmp_path / "out"))
    assert run(evaluator, {1: {"instances": instances([(A, 2, 0.5)])}}) == {}
    (result,) = json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())
    assert result["category_id"] == 20


def test_class_outside_the_dataset_is_an_error(dataset):
    evaluator = COCOEvaluator(dataset(GROUND_TRUTH), distributed=False)
    with pytest.raises(AssertionError, match="class=3"):
        run(evaluator, {1: {"instances": instances([(A, 3, 0.5)])}})


@pytest.mark.bundled_only
def test_unknown_task_is_an_error(dataset):
    with pytest.raises(ValueError, match="boxes"):
        COCOEvaluator(dataset(GROUND_TRUTH), ("boxes",))


def test_dataset_in_detectron2_format(tmp_path):
    name = "coco_evaluator_test_converted"
    record = {"file_name": "a.jpg", "image_id": 7, "height": H, "width": W}
    record["annotations"] = [{"bbox": list(A), "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1}]
    DatasetCatalog.register(name, lambda: [record])
    MetadataCatalog.get(name).thing_classes = ["x", "y"]
    try:
        with pytest.raises(ValueError, match="output_dir"):
            COCOEvaluator(name, distributed=False)
        evaluator = COCOEvaluator(name, distributed=False, output_dir=str(tmp_path))
        results = run(evaluator, {7: {"instances": instances([(A, 1, 0.5)], masks=False)}})
    finally:
        DatasetCatalog.pop(name)
        MetadataCatalog.pop(name)
    assert results["bbox"]["AP-y"] == pytest.approx(100)
    assert (tmp_path / f"{name}_coco_format.json").exists()


def random_boxes(rng, n):
    x0, y0 = rng.integers(0, W - 20, n), rng.integers(0, H - 20, n)
    return np.stack([x0, y0, x0 + rng.integers(5, 20, n), y0 + rng.integers(5, 20, n)], 1)


def random_case(seed, n_images=12):
    rng = np.random.default_rng(seed)
    truth, results = [], []
    for image_id in range(1, n_images + 1):
        boxes, classes = random_boxes(rng, 6), rng.integers(0, 3, 15)
        for box, c in zip(boxes.tolist(), classes, strict=False):
            crowd = int(rng.random() < 0.1)
            truth.append(annotation(len(truth) + 1, image_id, CATEGORIES[c], box, crowd))
        moved = np.concatenate([boxes + rng.integers(-2, 3, boxes.shape), random_boxes(rng, 9)])
        moved = np.clip(moved, 0, [W, H, W, H]).tolist()
        # rounded scores: ties have to fall the same way
        output = instances([(b, int(c), round(rng.random(), 1)) for b, c in zip(moved, classes, strict=True)])
        for result in instances_to_coco_json(output, image_id):
            results.append({**result, "category_id": CATEGORIES[result["category_id"]]})
    return truth, results


@pytest.mark.parametrize("task", ["bbox", "segm"])
@pytest.mark.parametrize("max_dets", [None, [1, 10, 300], [1, 10, 2]])
@pytest.mark.parametrize("images", [None, [2, 5, 3]])
def test_fast_implementation_equals_pycocotools(tmp_path, task, max_dets, images):
    truth, results = random_case(seed=3)
    write_json(tmp_path / "gt.json", truth, n_images=12)
    with quiet():
        api = COCO(str(tmp_path / "gt.json"))
        fast, official = (
            _evaluate_predictions_on_coco(
                api, results, task, cocoeval_fn=f, img_ids=images, max_dets_per_image=max_dets
            )
            for f in (COCOeval_opt, COCOeval)
        )
    assert 0.1 < official.stats[0] < 0.9
    np.testing.assert_allclose(fast.stats, official.stats, rtol=0, atol=1e-9)
    for key in ("precision", "recall", "scores"):
        assert fast.eval[key].shape == official.eval[key].shape
        np.testing.assert_allclose(fast.eval[key], official.eval[key], rtol=0, atol=1e-9)


@pytest.mark.parametrize("settings", [{"useCats": 0}, {"catIds": [20, 3]}, {"iouThrs": np.array([0.3])}])
def test_fast_implementation_knows_the_parameters(tmp_path, settings):
    truth, results = random_case(seed=4)
    write_json(tmp_path / "gt.json", truth, n_images=12)
    evaluated = []
    with quiet():
        for implementation in (COCOeval_opt, COCOeval):
            api = COCO(str(tmp_path / "gt.json"))
            coco_eval = implementation(api, api.loadRes([dict(r) for r in results]), "bbox")
            for name, value in settings.items():
                setattr(coco_eval.params, name, value)
            coco_eval.evaluate()
            coco_eval.accumulate()
            evaluated.append(coco_eval.eval)
    assert evaluated[0]["precision"].shape == evaluated[1]["precision"].shape
    assert evaluated[1]["precision"].max() > 0
    np.testing.assert_allclose(evaluated[0]["precision"], evaluated[1]["precision"], rtol=0, atol=1e-9)


@pytest.mark.bundled_only
def test_falls_back_where_the_fast_implementation_is_missing(dataset, monkeypatch):
    import importlib.util

    name = dataset(GROUND_TRUTH)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n == "faster_coco_eval" else find(n, *a))
    monkeypatch.setitem(__import__("sys").modules, "faster_coco_eval", None)  # importing it now fails
    results = run(COCOEvaluator(name, distributed=False), {1: {"instances": instances([(A, 0, 0.9)])}})
    assert results["bbox"]["AP-c3"] == pytest.approx(100)


def shapes():
    full = torch.ones(4, 5, dtype=torch.bool)
    corner = torch.zeros(4, 5, dtype=torch.bool)
    corner[-1, -1] = True
    first = torch.zeros(4, 5, dtype=torch.bool)
    first[0, 0] = True
    noise = torch.rand(4, 5, generator=torch.Generator().manual_seed(0)) > 0.5
    stripes = torch.zeros(4, 5, dtype=torch.bool)
    stripes[:, 1::2] = True
    return torch.stack([full, corner, first, noise, stripes, torch.zeros(4, 5, dtype=torch.bool)])


def test_masks_are_encoded_as_pycocotools_does():
    masks = shapes()
    output = Instances((4, 5))
    n = len(masks)
    output.pred_boxes, output.scores = Boxes(torch.zeros(n, 4)), torch.zeros(n)
    output.pred_classes, output.pred_masks = torch.arange(n), masks
    results = instances_to_coco_json(output, 5)
    for mask, result in zip(masks.numpy(), results, strict=True):
        expected = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert result["segmentation"] == {"size": [4, 5], "counts": expected["counts"].decode()}
        assert (mask_util.decode(result["segmentation"]) == mask).all()
    json.dumps(results)


def test_keypoints_become_pixel_indices():
    output = instances([(A, 0, 0.5)], masks=False)
    output.pred_keypoints = torch.tensor([[[10.5, 20.0, 0.25], [3.0, 4.0, 2.0]]])
    (result,) = instances_to_coco_json(output, 1)
    assert result["keypoints"] == [10.0, 19.5, 0.25, 2.5, 3.5, 2.0]


def test_nothing_predicted():
    assert instances_to_coco_json(instances([]), 1) == []


def proposals(boxes, logits):
    result = Instances((H, W))
    result.proposal_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32))
    result.objectness_logits = torch.tensor(logits)
    return result


def test_recall_of_proposals(tmp_path):
    crowd = annotation(4, 1, 3, (0, 0, 5, 5), crowd=1)
    write_json(tmp_path / "gt.json", [*GROUND_TRUTH, crowd])
    with quiet():
        api = COCO(str(tmp_path / "gt.json"))
    # the better proposal covers 16 x 20 of the 20 x 20 of A, IoU 0.8; both boxes there are wanted by A alone
    predictions = [{"image_id": 1, "proposals": proposals([(10, 10, 26, 30), (10, 10, 20, 30), B], [1.0, 3.0, 2.0])}]
    found = _evaluate_box_proposals(predictions, api)
    assert found["num_pos"] == 2
    assert found["gt_overlaps"].tolist() == pytest.approx([0.8, 1.0])
    assert found["recalls"].tolist() == [1.0] * 7 + [0.5] * 3 or found["recalls"].tolist() == [1.0] * 6 + [0.5] * 4
    assert found["ar"].item() == pytest.approx(found["recalls"].mean().item())
    # of the best two, one covers half of A
    best = _evaluate_box_proposals(predictions, api, limit=2)
    assert best["gt_overlaps"].tolist() == pytest.approx([0.5, 1.0])
    assert _evaluate_box_proposals(predictions, api, area="medium")["num_pos"] == 0
    with pytest.raises(AssertionError, match="huge"):
        _evaluate_box_proposals(predictions, api, area="huge")


def test_proposal_task(dataset, tmp_path):
    evaluator = COCOEvaluator(dataset(GROUND_TRUTH), distributed=False, output_dir=str(tmp_path / "out"))
    results = run(evaluator, {2: {"proposals": proposals([A], [0.5])}})
    keys = [f"AR{size}@{limit}" for limit in (100, 1000) for size in ("", "s", "m", "l")]
    assert list(results["box_proposals"]) == keys
    assert results["box_proposals"]["AR@100"] == pytest.approx(100)
    assert math.isnan(results["box_proposals"]["ARl@100"])
    assert (tmp_path / "out" / "box_proposals.pkl").exists()
