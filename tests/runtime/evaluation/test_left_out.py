"""Evaluators that the runtime does not cover can be imported, not used."""

import importlib

import detectron2.evaluation
import pytest

NAMES = {
    "cityscapes_evaluation": ["CityscapesInstanceEvaluator", "CityscapesSemSegEvaluator"],
    "lvis_evaluation": ["LVISEvaluator"],
    "panoptic_evaluation": ["COCOPanopticEvaluator"],
    "pascal_voc_evaluation": ["PascalVOCDetectionEvaluator"],
    "rotated_coco_evaluation": ["RotatedCOCOEvaluator"],
    "sem_seg_evaluation": ["SemSegEvaluator"],
}


@pytest.mark.parametrize(("module", "name"), [(m, n) for m, names in NAMES.items() for n in names])
def test_importable_from_both_places(module, name):
    there = getattr(importlib.import_module(f"detectron2.evaluation.{module}"), name)
    assert getattr(detectron2.evaluation, name) is there
    assert name in detectron2.evaluation.__all__


@pytest.mark.bundled_only
@pytest.mark.parametrize("name", [name for names in NAMES.values() for name in names])
def test_use_says_what_is_missing(name):
    with pytest.raises(NotImplementedError, match=name):
        getattr(detectron2.evaluation, name)("dataset")
