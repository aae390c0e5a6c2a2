"""The matching of many variants at once, against pycocotools on one that keeps everything."""

import contextlib
import io
import json

import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from instseg_d2.evaluation.matching import Variant, precisions

SIZES = ("all", "small", "medium", "large")


def finished(json_file, found, categories, task="bbox"):
    """pycocotools' evaluation of (box, class index, score) triples by image, after `accumulate()`."""
    results = [
        {"image_id": i, "category_id": categories[k], "score": score, "bbox": [x0, y0, x1 - x0, y1 - y0]}
        for i, triples in found.items()
        for (x0, y0, x1, y1), k, score in triples
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(json_file)
        evaluation = COCOeval(truth, truth.loadRes(json.loads(json.dumps(results))), task)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


@pytest.mark.parametrize("seed", range(3))
def test_keeping_everything_is_the_evaluation_itself(dataset, scene, seed):
    truth, found = scene(seed)
    evaluation = finished(MetadataCatalog.get(dataset(truth, 12)).json_file, found, [3, 8, 20])
    # Crowd regions among them: they stay crowd regions.
    kept = {one["id"] for one in truth}
    own = precisions(evaluation, [Variant(kept, size) for size in SIZES])
    expected = np.moveaxis(evaluation.eval["precision"][..., -1], -1, 0)
    assert own.shape == expected.shape == (4, 10, 101, 3)
    np.testing.assert_allclose(own, expected, atol=1e-12)
    assert (own[:3] > 0).any(axis=(1, 2, 3)).all()
    assert (own[3] == -1).all()


def test_keeping_nothing_leaves_nothing_to_compute(dataset, scene):
    truth, found = scene(images=2)
    evaluation = finished(MetadataCatalog.get(dataset(truth)).json_file, found, [3, 8, 20])
    assert (precisions(evaluation, [Variant(set())]) == -1).all()
