"""Thresholds by hand: a model whose masks fill their boxes with one probability, and maps of one pixel a cell."""

import math

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.evaluation import COCOEvaluator
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes, Instances
from torch import nn
from torch.nn import functional as F

from instseg_d2.evaluation import GivenBoxesEvaluation
from instseg_d2.evaluation.mask_thresholds import (
    UnsuitableModelError,
    evaluate_detections,
    evaluate_given_boxes,
    fixed_threshold,
    learned_thresholds,
    raw_predictions,
)
from instseg_d2.modeling.mask_heads.atmask import ATMaskHead, binarization_logits
from instseg_d2.testing import tiny_mask_rcnn

SIDE = 28


def found(box=(10, 20, 38, 48), size=(60, 80), **maps):
    instances = Instances(size)
    instances.pred_boxes = Boxes(torch.tensor([box], dtype=torch.float32))
    instances.pred_classes, instances.scores = torch.tensor([0]), torch.tensor([0.9])
    for name, value in maps.items():
        instances.set(name, value)
    return instances


class Constant(nn.Module):
    """Finds the true boxes of both images; masks fill them with a probability of 0.6, or of 0.4 in image 2."""

    boxes = {1: (10, 10, 30, 20), 2: (20, 30, 60, 50)}

    def __init__(self):
        super().__init__()
        self.calls = []

    def inference(self, batched_inputs, detected_instances=None, do_postprocess=True):
        assert not do_postprocess
        assert not self.training
        assert not torch.is_grad_enabled()
        self.calls.append([record["image_id"] for record in batched_inputs])
        outputs = []
        for number, record in enumerate(batched_inputs):
            x0, y0, x1, y1 = self.boxes[record["image_id"]]
            given = found((2 * x0, 2 * y0, 2 * x1, 2 * y1), (120, 160))
            if detected_instances is not None:
                given = detected_instances[number]
            given.pred_masks = torch.full((len(given), 1, SIDE, SIDE), 0.6 if record["image_id"] == 1 else 0.4)
            outputs.append(given)
        return outputs


class Loader:
    """Batches of one image, resized from 60 x 80 px; counts how often it is read."""

    def __init__(self):
        self.reads = 0

    def __iter__(self):
        self.reads += 1
        for key in (1, 2):
            yield [{"image_id": key, "image": torch.zeros(3, 120, 160), "height": 60, "width": 80}]

    def __len__(self):
        return 2


@pytest.fixture
def name(dataset, annotation):
    return dataset([annotation(1, 1, 3, (10, 10, 30, 20)), annotation(2, 2, 3, (20, 30, 60, 50))])


RULES = [fixed_threshold(value) for value in (0.3, 0.5, 0.7)]


def test_detections_are_evaluated_by_every_rule_in_one_pass(name):
    model, loader = Constant(), Loader()
    evaluators = [COCOEvaluator(name, ("segm",)) for _ in RULES]
    results = evaluate_detections(model.train(), loader, RULES, evaluators)
    assert [result["segm"]["AP"] for result in results] == pytest.approx([100, 100 * 51 / 101, 0], abs=1e-6)
    assert model.calls == [[1], [2]]
    assert loader.reads == 1
    assert model.training


def test_given_boxes_are_evaluated_by_every_rule_in_one_pass(name):
    model, loader = Constant(), Loader()
    results = evaluate_given_boxes(
        model, loader, RULES, lambda batches: GivenBoxesEvaluation(loader=batches, dataset_name=name, bins=())
    )
    assert [result["given_boxes"]["IoU"] for result in results] == pytest.approx([100, 50, 0])
    assert model.calls == [[1], [2]]
    assert loader.reads == 1


def test_a_real_model_by_its_own_threshold(name):
    """The rule of 0.5 is what the model does by itself."""
    model = tiny_mask_rcnn().eval()
    model.roi_heads.box_predictor.test_score_thresh = 0.0
    torch.manual_seed(0)
    batch = [{"image": torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8), "height": 100, "width": 150}]
    with torch.no_grad():
        expected = model(batch)[0]["instances"]
        (raw,) = raw_predictions(model, batch)
        boxes = raw.pred_boxes.tensor.clone()
        result = fixed_threshold(0.5)(raw, 100, 150)
        lower = fixed_threshold(0.4999)(raw, 100, 150)
    assert len(expected) > 0
    assert torch.equal(result.pred_masks, expected.pred_masks)
    assert torch.equal(result.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert torch.equal(raw.pred_boxes.tensor, boxes)  # detector_postprocess rescales boxes in place
    assert lower.pred_masks.sum() >= result.pred_masks.sum()
    # And the same in given boxes.
    loader = [[{"image_id": key, "image": torch.rand(3, 120, 160) * 255, "height": 60, "width": 80}] for key in (1, 2)]

    def make(batches):
        return GivenBoxesEvaluation(loader=batches, dataset_name=name, bins=())

    (swept,) = evaluate_given_boxes(model, loader, RULES[1:2], make)
    expected = make(loader)(model)
    assert swept == expected
    assert expected["given_boxes"]["IoU"] > 0


def pooler(size):
    return L(ROIPooler)(output_size=size, scales=[1 / 4], sampling_ratio=0, pooler_type="ROIAlignV2")


def atmask(**settings):
    return instantiate(
        L(ATMaskHead)(
            in_channels=4,
            num_classes=1,
            in_features=["p2"],
            pooler=pooler(14),
            threshold_in_features=["p2"],
            threshold_pooler=pooler(28),
            conv_dim=4,
            **settings,
        )
    )


@pytest.mark.parametrize("steepness", [1.0, 2.0, 5.0])
def test_learned_thresholds(steepness):
    head = atmask(result="probability", steepness=steepness)
    by_cell, by_pixel = learned_thresholds(nn.ModuleDict({"head": head}))
    assert head.keep_aux
    assert head.result == "binary"
    probability, threshold = torch.rand(2, 1, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    binary = binarization_logits(probability, threshold, steepness).sigmoid()
    maps = {"pred_masks": binary, "pred_probabilities": probability, "pred_thresholds": threshold}
    # One pixel a cell: all rules compare P and T as they are.
    instances, higher = found(**maps), (probability >= threshold)[0, 0]
    for rule in (by_cell, by_pixel):
        mask = rule(instances, 60, 80).pred_masks[0]
        assert torch.equal(mask[20:48, 10:38], higher)
        assert mask.sum() == higher.sum()
    assert torch.equal(RULES[0](instances, 60, 80).pred_masks[0, 20:48, 10:38], probability[0, 0] >= 0.3)
    # Four pixels a cell: P and T are interpolated before they are compared, or B is.
    large = found((0, 0, 56, 56), **maps)
    enlarged = [F.interpolate(value, scale_factor=2, mode="bilinear")[0, 0] for value in maps.values()]
    inner = slice(1, -1), slice(1, -1)  # pasting fades towards the border
    assert torch.equal(by_cell(large, 60, 80).pred_masks[0, :56, :56][inner], (enlarged[0] >= 0.5)[inner])
    pixels = by_pixel(large, 60, 80).pred_masks[0, :56, :56][inner]
    assert (pixels == (enlarged[1] >= enlarged[2])[inner]).float().mean() > 0.999


def test_models_without_thresholds_have_fixed_ones_alone():
    assert learned_thresholds(tiny_mask_rcnn()) == []


@pytest.mark.parametrize("value", [0, 1, -0.5, math.nan])
def test_no_threshold(value):
    with pytest.raises(ValueError, match="lies between 0 and 1"):
        fixed_threshold(value)


def test_unsuitable_models():
    class Pasted(nn.Module):
        def inference(self, batched_inputs, detected_instances=None, do_postprocess=True):
            return [found(pred_masks=torch.zeros(1, 60, 80, dtype=torch.bool))]

    class Whole(nn.Module):
        def inference(self, batched_inputs):
            return []

    with pytest.raises(UnsuitableModelError, match="Pasted gives no masks as probabilities"):
        raw_predictions(Pasted(), [{}])
    for model in (Whole(), nn.Identity()):
        with pytest.raises(UnsuitableModelError, match="has no inference"):
            raw_predictions(model, [{}])
