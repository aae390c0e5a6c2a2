"""AP of subsets: worked out by hand, against pycocotools run on each subset, and against the plain evaluator."""

import contextlib
import io
import json
import math

import numpy as np
import pytest
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from omegaconf import OmegaConf
from pycocotools import mask as mask_util
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from instseg_d2.data import DatasetError
from instseg_d2.evaluation import (
    OCCLUSION_BINS,
    InstanceSubset,
    SubsetCOCOEvaluator,
    area_between,
    covered_between,
    overlap_at_least,
)

METRICS = ["AP", "AP50", "AP75", "APs", "APm", "APl"]
LEFT, RIGHT, LOW = (5, 5, 25, 25), (45, 5, 65, 25), (45, 35, 65, 55)
NOWHERE = (5, 40, 15, 50)

fast_or_not = pytest.mark.parametrize("fast", [True, False], ids=["fast", "pycocotools"])


def same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert a[key] == pytest.approx(b[key], abs=1e-9, nan_ok=True), key


@fast_or_not
def test_the_best_detections_of_an_image_by_hand(dataset, annotation, evaluate, fast, tmp_path):
    """Two objects of two categories: with the best detection alone, one of them is found; the other has AP 0."""
    truth = [annotation(1, 1, 3, LEFT), annotation(2, 1, 8, RIGHT), annotation(3, 2, 3, LEFT)]
    found = {1: [(LEFT, 0, 0.6), (RIGHT, 1, 0.9)], 2: [(LEFT, 0, 0.5)]}
    settings = dict(distributed=False, use_fast_impl=fast, category_subsets={"pears": ["pear"]})
    evaluator = SubsetCOCOEvaluator(dataset(truth), ["segm"], output_dir=str(tmp_path), best_detections=1, **settings)
    results = evaluate(evaluator, found)
    assert list(results) == ["segm", "segm_pears", "segm_top1", "segm_pears_top1"]
    for name in ("segm", "segm_pears", "segm_pears_top1"):
        assert results[name]["AP"] == pytest.approx(100)
    # Of two cups the one in the second image is left: precision 1 up to recall 1/2, which is 51 of 101 points.
    assert results["segm_top1"]["AP"] == pytest.approx(100 * (51 / 101 + 1) / 2)
    assert len(json.loads((tmp_path / "coco_instances_results.json").read_text())) == 3
    same(results["segm"], evaluate(SubsetCOCOEvaluator(dataset(truth), ["segm"], **settings), found)["segm"])


def test_less_than_one_detection_is_refused(dataset):
    with pytest.raises(ValueError, match="best_detections must be 1 or more, got 0"):
        SubsetCOCOEvaluator(dataset([]), best_detections=0)


@fast_or_not
def test_bins_by_hand(dataset, annotation, evaluate, fast):
    """One category; by score: a hit of A (nothing hidden), a false detection, a hit of B (0.3 hidden).

    All: precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1, so 51 recall points at 1 and 50 at 2/3.
    Only A counts: hit, false: recall 1 at precision 1. Only B counts: false, hit: recall 1 at precision 1/2.
    """
    truth = [annotation(1, 1, 3, LEFT, covered=0), annotation(2, 1, 3, RIGHT, covered=0.3)]
    evaluator = SubsetCOCOEvaluator(
        dataset(truth), ["segm"], distributed=False, use_fast_impl=fast, occlusion_bins=OCCLUSION_BINS
    )
    results = evaluate(evaluator, {1: [(LEFT, 0, 0.9), (NOWHERE, 0, 0.8), (RIGHT, 0, 0.7)]})
    assert list(results) == ["segm", "segm_by_occlusion"]
    assert results["segm"]["AP"] == pytest.approx(100 * (51 + 50 * 2 / 3) / 101)
    bins = results["segm_by_occlusion"]
    same(
        bins,
        {
            "AP-0": 100,
            "instances-0": 1,
            "AP-0-0.2": math.nan,
            "instances-0-0.2": 0,
            "AP-0.2-0.5": 50,
            "instances-0.2-0.5": 1,
            "AP-0.5-1": math.nan,
            "instances-0.5-1": 0,
            "AP-0.2-1": 50,
            "instances-0.2-1": 1,
        },
    )


@fast_or_not
def test_instance_that_counts_is_preferred_to_an_ignored_one(dataset, annotation, evaluate, fast):
    """The detection is the ignored 20 x 24 box; its IoU with the 20 x 20 box inside is 400 / 480 = 0.83.

    So the smaller one is found at the seven thresholds up to 0.8, and at 0.85, 0.9, 0.95 the detection is ignored and
    nothing found: AP 7/10.
    """
    truth = [annotation(1, 1, 3, (10, 10, 30, 30)), annotation(2, 1, 3, (10, 10, 30, 34))]
    subset = InstanceSubset("small", lambda one, image: one["id"] == 1)
    evaluator = SubsetCOCOEvaluator(dataset(truth), distributed=False, use_fast_impl=fast, instance_subsets=[subset])
    results = evaluate(evaluator, {1: [((10, 10, 30, 34), 0, 0.9)]})
    for task in ("bbox_small", "segm_small"):
        assert results[task]["AP"] == pytest.approx(70)
        assert results[task]["AP50"] == results[task]["AP75"] == pytest.approx(100)


@fast_or_not
def test_ignored_takes_one_detection_and_a_crowd_takes_all(dataset, annotation, evaluate, fast):
    """LOW counts and is found last, after two detections in RIGHT.

    RIGHT ignored: its first detection is ignored, the second is false: recall 1 at precision 1/2.
    RIGHT a crowd region: both are ignored, also small ones, since there the IoU is intersection over detection: 1.
    """
    inside = (50, 10, 60, 20)
    count_low = InstanceSubset("low", lambda one, image: one["id"] == 2)
    for more, first, expected in (({}, RIGHT, 50), ({"iscrowd": 1}, inside, 100)):
        truth = [annotation(1, 1, 3, RIGHT, **more), annotation(2, 1, 3, LOW)]
        evaluator = SubsetCOCOEvaluator(
            dataset(truth), distributed=False, use_fast_impl=fast, instance_subsets=[count_low]
        )
        results = evaluate(evaluator, {1: [(first, 0, 0.9), (first, 0, 0.8), (LOW, 0, 0.7)]})
        assert results["segm_low"]["AP"] == pytest.approx(expected)
        assert results["bbox_low"]["AP"] == pytest.approx(expected)


@pytest.mark.parametrize(("order", "expected"), [((0, 1), 70), ((1, 0), 10 * (1 + 6 * 51 / 101))])
@fast_or_not
def test_of_equal_overlaps_the_last_is_taken(dataset, annotation, evaluate, fast, order, expected):
    """The first detection has IoU 18/22 with both objects, the second 18/22 with A and 14/26 = 0.54 with B.

    In the order A, B the first takes B and leaves A to the second: both are found up to a threshold of 0.8, AP 7/10.
    In the order B, A the first takes A, and the second B at 0.5 alone; at the six up to 0.8 it is false: 51/101.
    """
    boxes = [(10, 10, 30, 30), (14, 10, 34, 30)]
    truth = [annotation(number, 1, 3, boxes[index]) for number, index in enumerate(order, start=1)]
    each = InstanceSubset("each", lambda one, image: True)
    evaluator = SubsetCOCOEvaluator(dataset(truth), distributed=False, use_fast_impl=fast, instance_subsets=[each])
    results = evaluate(evaluator, {1: [((12, 10, 32, 30), 0, 0.9), ((8, 10, 28, 30), 0, 0.8)]})
    for task in ("segm", "segm_each", "bbox_each"):
        assert results[task]["AP"] == pytest.approx(expected)


def test_crowd_regions_are_not_asked_about(dataset, annotation, evaluate):
    truth = [annotation(1, 1, 3, LEFT), annotation(2, 1, 3, RIGHT, iscrowd=1)]
    asked = []
    subset = InstanceSubset("any", lambda one, image: asked.append((one["id"], image.height)) or True)
    evaluator = SubsetCOCOEvaluator(dataset(truth), distributed=False, instance_subsets=[subset])
    evaluate(evaluator, {1: [(LEFT, 0, 0.9)]})
    assert asked == [(1, 60)]


@fast_or_not
def test_ignored_instances_with_perfect_detections_change_nothing(dataset, annotation, evaluate, scene, fast):
    truth, found = scene(images=6)
    kept = {one["id"] for one in truth}
    subset = InstanceSubset("kept", lambda one, image: one["id"] in kept)
    options = {"distributed": False, "use_fast_impl": fast, "instance_subsets": [subset]}
    before = evaluate(SubsetCOCOEvaluator(dataset(truth, 6), **options), found)
    added = [annotation(1000 + i, i, (3, 8, 20)[i % 3], (70, 50, 76, 58)) for i in range(1, 7)]
    more = {i: [*triples, ((70, 50, 76, 58), i % 3, 0.95)] for i, triples in found.items()}
    # Apart from all others, so that no two things compete for a match.
    assert all(box_iou(one["bbox"], other["bbox"]) < 0.3 for one in added for other in truth)
    after = evaluate(SubsetCOCOEvaluator(dataset(truth + added, 6), **options), more)
    assert after["segm"]["AP"] > before["segm"]["AP"] + 1
    same(after["segm_kept"], before["segm_kept"])
    same(after["bbox_kept"], before["bbox_kept"])


def box_iou(a, b):
    return mask_util.iou(np.array([a], dtype=float), np.array([b], dtype=float), [0])[0, 0]


class IgnoringCOCOeval(COCOeval):
    """The reference: pycocotools with ignore flags set after its preparation has overwritten them."""

    kept = frozenset()

    def _prepare(self):
        super()._prepare()
        for annotations in self._gts.values():
            for one in annotations:
                one["ignore"] = one["iscrowd"] or one["id"] not in self.kept


def reference(json_file, results_file, task, kept=None, categories=None):
    """pycocotools' six figures in percent, -1 as NaN."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(json_file)
        results = json.loads(results_file.read_text())
        if task == "segm":
            results = [{key: value for key, value in one.items() if key != "bbox"} for one in results]
        evaluation = IgnoringCOCOeval(truth, truth.loadRes(results), task)
        evaluation.kept = set(truth.anns) if kept is None else kept
        if categories:
            evaluation.params.catIds = categories
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    figures = [100 * value if value >= 0 else math.nan for value in evaluation.stats[:6]]
    return dict(zip(METRICS, figures, strict=True))


@pytest.mark.parametrize("seed", [0, 1])
@fast_or_not
def test_all_subsets_equal_pycocotools_run_on_each(dataset, evaluate, scene, tmp_path, fast, seed):
    truth, found = scene(seed)
    name = dataset(truth, 12)
    evaluator = SubsetCOCOEvaluator(
        name,
        distributed=False,
        output_dir=str(tmp_path),
        use_fast_impl=fast,
        category_subsets={"all": None, "fruit": ["pear", "leaf"], "first": [3]},
        instance_subsets=[covered_between(0.15, 0.9), area_between(300, 1e6)],
        occlusion_bins=OCCLUSION_BINS,
    )
    results = evaluate(evaluator, found)
    json_file, results_file = MetadataCatalog.get(name).json_file, tmp_path / "coco_instances_results.json"
    hidden = {one["id"] for one in truth if 0.15 < one["covered"] <= 0.9 and not one["iscrowd"]}
    large = {one["id"] for one in truth if one["area"] > 300}
    for task in ("bbox", "segm"):
        for suffix, kept, categories in (
            ("", None, None),
            ("_fruit", None, [8, 20]),
            ("_first", None, [3]),
            ("_covered_0.15-0.9", hidden, None),
            ("_fruit_covered_0.15-0.9", hidden, [8, 20]),
            ("_area_300-1e+06", large, None),
        ):
            expected = reference(json_file, results_file, task, kept, categories)
            same({metric: results[task + suffix][metric] for metric in METRICS}, expected)
        per_category = [results[task][f"AP-{name}"] for name in ("pear", "leaf")]
        assert results[f"{task}_fruit"]["AP"] == pytest.approx(np.mean(per_category))
        for low, high in OCCLUSION_BINS:
            kept = {
                one["id"]
                for one in truth
                if not one["iscrowd"] and (low < one["covered"] <= high or one["covered"] == low == high)
            }
            label = f"{low:g}" if low == high else f"{low:g}-{high:g}"
            bins = results[f"{task}_by_occlusion"]
            assert bins[f"AP-{label}"] == pytest.approx(reference(json_file, results_file, task, kept)["AP"])
            assert bins[f"instances-{label}"] == len(kept) > 0


@fast_or_not
def test_plain_tasks_and_the_subset_of_everything_equal_the_plain_evaluator(dataset, evaluate, scene, fast):
    truth, found = scene(3)
    name = dataset(truth, 12)
    plain = evaluate(COCOEvaluator(name, distributed=False, use_fast_impl=fast), found)
    evaluator = SubsetCOCOEvaluator(
        name,
        distributed=False,
        use_fast_impl=fast,
        category_subsets={"every": None},
        instance_subsets=[InstanceSubset("each", lambda one, image: True)],
    )
    results = evaluate(evaluator, found)
    assert list(results)[:4] == ["bbox", "bbox_every", "bbox_each", "bbox_every_each"]
    for task in ("bbox", "segm"):
        same(results[task], plain[task])
        for suffix in ("_every", "_each", "_every_each"):
            same(results[task + suffix], {metric: plain[task][metric] for metric in METRICS})


def test_category_subset_is_the_mean_of_its_categories_and_absent_ones_stay_out(dataset, annotation, evaluate):
    """cup: found, 100. pear: not found, 0. leaf: no instance, not 0 and not -1 but left out."""
    truth = [annotation(1, 1, 3, LEFT), annotation(2, 1, 8, RIGHT)]
    subsets = {"two": ["cup", "leaf"], "three": ["cup", "pear", "leaf"], "none": [20]}
    evaluator = SubsetCOCOEvaluator(dataset(truth), distributed=False, category_subsets=subsets)
    results = evaluate(evaluator, {1: [(LEFT, 0, 0.9), (LOW, 2, 0.8)]})
    assert results["segm_two"]["AP"] == pytest.approx(100)
    assert results["segm_three"]["AP"] == pytest.approx(50)
    assert math.isnan(results["segm_none"]["AP"])
    assert math.isnan(results["segm_two"]["APl"])


def test_polygons_and_run_lengths_give_the_same(dataset, evaluate, scene, rle):
    truth, found = scene(4, images=5)
    as_rle = [{**one, "segmentation": rle((x, y, x + w, y + h))} for one in truth for x, y, w, h in [one["bbox"]]]
    results = [
        evaluate(
            SubsetCOCOEvaluator(
                dataset(annotations, 5),
                distributed=False,
                category_subsets={"fruit": ["pear", "leaf"]},
                instance_subsets=[overlap_at_least(0.3)],
            ),
            found,
        )
        for annotations in (truth, as_rle)
    ]
    assert "segm_fruit_overlap_0.3" in results[0]
    for task in results[0]:
        same(results[0][task], results[1][task])


@fast_or_not
def test_other_numbers_of_detections(dataset, annotation, evaluate, fast):
    """A hit behind 120 false detections counts where 200 an image do, at precision 1/121, and not where 100 do."""
    truth = [annotation(1, 1, 3, LEFT, covered=0.5)]
    found = {1: [*[(NOWHERE, 0, 0.9)] * 120, (LEFT, 0, 0.8)]}
    for limit, expected in ((None, 0), (200, 100 / 121)):
        evaluator = SubsetCOCOEvaluator(
            dataset(truth),
            ["bbox"],
            distributed=False,
            use_fast_impl=fast,
            max_dets_per_image=limit,
            category_subsets={"cups": ["cup"]},
            occlusion_bins=[[0.2, 0.5]],
        )
        results = evaluate(evaluator, found)
        assert results["bbox"]["AP"] == results["bbox_cups"]["AP"] == pytest.approx(expected)
        assert results["bbox_by_occlusion"]["AP-0.2-0.5"] == pytest.approx(expected)


def test_images_can_be_selected(dataset, annotation, evaluate):
    truth = [annotation(1, 1, 3, LEFT, covered=0), annotation(2, 2, 3, LEFT, covered=0)]
    evaluator = SubsetCOCOEvaluator(dataset(truth), ["segm"], distributed=False, occlusion_bins=[[0, 0]])
    found = {1: [(LEFT, 0, 0.9)], 2: []}
    bins = evaluate(evaluator, found, img_ids=[1])["segm_by_occlusion"]
    assert bins == {"AP-0": pytest.approx(100), "instances-0": 1}
    assert evaluate(evaluator, found)["segm_by_occlusion"]["instances-0"] == 2


def test_no_detections_give_nan_and_no_images_give_nothing(dataset, annotation, evaluate):
    truth = [annotation(1, 1, 3, LEFT, covered=0)]
    evaluator = SubsetCOCOEvaluator(
        dataset(truth),
        ["bbox", "segm"],
        distributed=False,
        category_subsets={"cups": ["cup"]},
        instance_subsets=[overlap_at_least(0.3)],
        occlusion_bins=[[0, 0]],
    )
    results = evaluate(evaluator, {1: [], 2: []})
    for task in ("segm_cups", "segm_overlap_0.3", "bbox_cups_overlap_0.3"):
        assert list(results[task]) == METRICS
        assert all(math.isnan(value) for value in results[task].values())
    assert math.isnan(results["segm_by_occlusion"]["AP-0"])
    assert results["segm_by_occlusion"]["instances-0"] == 1
    assert evaluate(evaluator, {}) == {}


def test_images_without_ground_truth_have_false_detections(dataset, annotation, evaluate):
    truth = [annotation(1, 1, 3, LEFT, covered=0)]
    evaluator = SubsetCOCOEvaluator(dataset(truth), ["segm"], distributed=False, occlusion_bins=[[0, 0]])
    results = evaluate(evaluator, {1: [(LEFT, 0, 0.8)], 2: [(RIGHT, 0, 0.9)]})
    assert results["segm_by_occlusion"]["AP-0"] == pytest.approx(50)


def test_data_without_annotations_only_write_the_predictions(dataset, evaluate, tmp_path):
    evaluator = SubsetCOCOEvaluator(
        dataset(None), distributed=False, output_dir=str(tmp_path / "out"), category_subsets={"cups": ["cup"]}
    )
    assert evaluate(evaluator, {1: [(LEFT, 0, 0.9)]}) == {}
    assert json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())[0]["category_id"] == 3


def test_built_from_a_config(dataset, annotation, evaluate):
    truth = [annotation(1, 1, 3, LEFT, covered=0.3), annotation(2, 1, 8, (5, 5, 15, 15), covered=0)]
    node = L(SubsetCOCOEvaluator)(
        dataset_name=dataset(truth),
        distributed=False,
        category_subsets={"all": None, "seen": ["cup"], "unseen": ["pear", "leaf"]},
        instance_subsets=[L(overlap_at_least)(threshold=0.25), L(covered_between)(low=0.2, high=1.0)],
        occlusion_bins=OCCLUSION_BINS,
    )
    results = evaluate(instantiate(OmegaConf.create(node, flags={"allow_objects": True})), {1: [(LEFT, 0, 0.9)]})
    # A quarter of LEFT's box is filled by the other one, whose own box LEFT fills.
    assert results["segm_seen"]["AP"] == pytest.approx(100)
    assert results["segm_overlap_0.25"]["AP"] == pytest.approx(50)
    assert results["segm_unseen"]["AP"] == 0
    assert results["segm_covered_0.2-1"]["AP"] == pytest.approx(100)
    assert results["bbox_by_occlusion"]["AP-0.2-0.5"] == pytest.approx(100)


def test_named_splits(dataset, annotation):
    with pytest.raises(DatasetError, match="category subset 'seen': .*coco_voc"):
        SubsetCOCOEvaluator(dataset([annotation(1, 1, 3, LEFT)]), category_subsets={"seen": "coco_vocs"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"category_subsets": {"seen": ["cups"]}}, r"category subset 'seen': .*no category 'cups' \(near: cup\)"),
        ({"category_subsets": {"seen": [3, 4]}}, "no category '4'"),
        ({"category_subsets": {"seen": []}}, "'seen' is empty"),
        ({"instance_subsets": [overlap_at_least(0.3), overlap_at_least(0.3)]}, "results called overlap_0.3"),
    ],
)
def test_subsets_that_cannot_be(dataset, annotation, options, message):
    with pytest.raises(DatasetError, match=message):
        SubsetCOCOEvaluator(dataset([annotation(1, 1, 3, LEFT)]), distributed=False, **options)


def test_bins_need_to_know_what_is_hidden(dataset, annotation, evaluate):
    name = dataset([annotation(17, 1, 3, LEFT)])
    evaluator = SubsetCOCOEvaluator(name, distributed=False, occlusion_bins=OCCLUSION_BINS)
    with pytest.raises(DatasetError, match=rf"{name}.json: annotation 17 of image 1 .*'covered'"):
        evaluate(evaluator, {1: [(LEFT, 0, 0.9)]})
