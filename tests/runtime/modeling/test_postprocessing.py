"""Detections and dense predictions brought to the output size."""

import pytest
import torch
from detectron2.modeling.postprocessing import detector_postprocess, sem_seg_postprocess
from detectron2.structures import Boxes, Instances, ROIMasks
from torch.nn import functional as F


def detections(boxes, size=(10, 20), **fields):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Instances(size, pred_boxes=Boxes(boxes), scores=torch.linspace(0.9, 0.1, len(boxes)), **fields)


def test_boxes_are_scaled_per_axis_clipped_and_dropped_when_empty():
    # 10 x 20 -> 30 x 40: y times 3, x times 2. The second box lies outside, the third reaches out.
    found = detections([[1, 2, 5, 6], [21, 3, 30, 5], [15, -4, 28, 4]])
    out = detector_postprocess(found, 30, 40)
    assert out.image_size == (30, 40)
    assert out.pred_boxes.tensor.tolist() == [[2, 6, 10, 18], [30, 0, 40, 12]]
    assert torch.allclose(out.scores, torch.tensor([0.9, 0.1]))


def test_proposal_boxes_serve_when_nothing_was_predicted():
    proposals = Instances((10, 10), proposal_boxes=Boxes(torch.tensor([[0.0, 0, 5, 5], [3, 3, 3, 9]])))
    proposals.objectness_logits = torch.tensor([2.0, 1.0])
    out = detector_postprocess(proposals, 20, 5)
    assert out.proposal_boxes.tensor.tolist() == [[0, 0, 2.5, 10]]
    assert out.objectness_logits.tolist() == [2.0]


def test_without_boxes_it_refuses():
    with pytest.raises(AssertionError):
        detector_postprocess(Instances((4, 4), scores=torch.ones(1)), 8, 8)


@pytest.mark.parametrize("wrap", [lambda m: m, lambda m: ROIMasks(m[:, 0])], ids=["tensor", "ROIMasks"])
def test_masks_are_pasted_at_the_output_size(wrap):
    # Left half foreground, in a box that becomes x 4..12, y 2..10 of the output.
    mask = torch.zeros(2, 1, 4, 4)
    mask[:, :, :, :2] = 1
    found = detections([[2, 1, 6, 5], [0, 0, 0, 0]], size=(8, 8), pred_masks=wrap(mask))
    out = detector_postprocess(found, 16, 16)
    assert out.pred_masks.dtype == torch.bool
    assert tuple(out.pred_masks.shape) == (1, 16, 16)
    expected = torch.zeros(16, 16, dtype=torch.bool)
    expected[2:10, 4:8] = True
    assert torch.equal(out.pred_masks[0], expected)


def test_mask_threshold():
    found = detections([[0, 0, 8, 8]], size=(8, 8), pred_masks=torch.full((1, 1, 4, 4), 0.4))
    strict = detector_postprocess(detections([[0, 0, 8, 8]], size=(8, 8), pred_masks=found.pred_masks), 8, 8)
    loose = detector_postprocess(found, 8, 8, mask_threshold=0.3)
    assert strict.pred_masks.sum() == 0
    assert loose.pred_masks[0, 1:7, 1:7].all()


def test_no_detections():
    out = detector_postprocess(detections([], size=(8, 8), pred_masks=torch.zeros(0, 1, 28, 28)), 12, 6)
    assert len(out) == 0
    assert tuple(out.pred_masks.shape) == (0, 12, 6)


def test_semantic_logits_lose_their_padding_before_they_are_resized():
    logits = torch.randn(3, 8, 8)
    out = sem_seg_postprocess(logits, (6, 4), 12, 8)
    expected = F.interpolate(logits[None, :, :6, :4], size=(12, 8), mode="bilinear", align_corners=False)[0]
    assert torch.equal(out, expected)
    same_size = sem_seg_postprocess(logits, (6, 4), 6, 4)
    assert torch.allclose(same_size, logits[:, :6, :4])
