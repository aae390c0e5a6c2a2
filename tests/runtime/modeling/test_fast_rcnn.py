"""Fast R-CNN's losses and inference against hand-computed values and a greedy second implementation."""

import math

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads.fast_rcnn import (
    FastRCNNOutputLayers,
    _log_classification_stats,
    fast_rcnn_inference,
)
from detectron2.structures import Boxes, Instances, pairwise_iou
from detectron2.utils.events import EventStorage


def predictor(num_classes=3, channels=4, **kwargs):
    transform = Box2BoxTransform(weights=(1.0, 1.0, 1.0, 1.0))
    return FastRCNNOutputLayers(
        ShapeSpec(channels=channels), box2box_transform=transform, num_classes=num_classes, **kwargs
    )


def labelled(boxes, gt_classes, gt_boxes=None, size=(100, 100)):
    x = Instances(size, proposal_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)))
    x.gt_classes = torch.tensor(gt_classes, dtype=torch.int64)
    if gt_boxes is not None:
        x.gt_boxes = Boxes(torch.tensor(gt_boxes, dtype=torch.float32).reshape(-1, 4))
    return x


def infer(boxes, scores, size=(100, 100), score_thresh=0.05, nms_thresh=0.5, topk=100):
    found, rows = fast_rcnn_inference([boxes], [scores], [size], score_thresh, nms_thresh, topk)
    return found[0], rows[0]


def test_threshold_nms_per_class_and_order():
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60]])
    scores = torch.tensor([[0.6, 0.3, 0.1], [0.7, 0.04, 0.26], [0.1, 0.2, 0.7]])
    found, rows = infer(boxes, scores)
    # Row 0 loses class 0 to row 1 (IoU 9/11), keeps class 1; the last column is background.
    assert rows.tolist() == [1, 0, 2, 2]
    assert found.pred_classes.tolist() == [0, 1, 1, 0]
    assert torch.allclose(found.scores, torch.tensor([0.7, 0.3, 0.2, 0.1]))
    assert torch.equal(found.pred_boxes.tensor, boxes[rows])
    assert found.image_size == (100, 100)


def test_score_must_exceed_the_threshold():
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]])
    scores = torch.tensor([[0.5, 0.5], [0.75, 0.25]])
    assert len(infer(boxes, scores, score_thresh=0.5)[0]) == 1


def test_each_class_has_its_own_box_and_boxes_are_clipped():
    boxes = torch.tensor([[-5.0, -5, 10, 10, 30, 40, 70, 90]])
    found, _ = infer(boxes, torch.tensor([[0.3, 0.6, 0.1]]), size=(50, 60))
    assert found.pred_classes.tolist() == [1, 0]
    assert found.pred_boxes.tensor.tolist() == [[30, 40, 60, 50], [0, 0, 10, 10]]
    assert boxes[0, 0] == -5, "the input must stay as it was"


@pytest.mark.parametrize(("topk", "expected"), [(2, 2), (0, 0), (-1, 5), (100, 5)])
def test_topk(topk, expected):
    corners = torch.arange(5.0)[:, None] * 20
    boxes = torch.cat([corners, corners, corners + 10, corners + 10], dim=1)
    scores = torch.tensor([[0.1, 0.9], [0.5, 0.5], [0.3, 0.7], [0.2, 0.8], [0.4, 0.6]])
    found, rows = infer(boxes, scores, topk=topk)
    assert len(found) == expected
    assert rows.tolist() == [1, 4, 2, 3, 0][:expected]


def test_against_greedy_suppression():
    torch.manual_seed(0)
    corners = torch.rand(60, 4, 2) * 60
    boxes = torch.cat([corners, corners + 5 + torch.rand(60, 4, 2) * 40], dim=2).reshape(60, 16)
    scores = torch.randn(60, 5).mul(2).softmax(dim=1)
    found, rows = infer(boxes, scores, score_thresh=0.2, nms_thresh=0.4)

    kept = []
    for k in range(4):
        boxes_k = Boxes(boxes[:, 4 * k : 4 * k + 4].clamp(0, 100))
        iou = pairwise_iou(boxes_k, boxes_k)
        chosen = []
        for row in scores[:, k].argsort(descending=True).tolist():
            if scores[row, k] > 0.2 and all(iou[row, other] <= 0.4 for other in chosen):
                chosen.append(row)
        kept += [(scores[row, k].item(), row, k) for row in chosen]
    kept.sort(reverse=True)
    assert len(kept) > 20
    assert rows.tolist() == [row for _, row, _ in kept]
    assert found.pred_classes.tolist() == [k for _, _, k in kept]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_rows_that_are_not_finite_give_no_detection(value):
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, value], [40, 40, 50, 50], [60, 60, 70, 70]])
    scores = torch.tensor([[0.9, 0.1], [0.8, 0.2], [value, 0.3], [0.6, 0.4]])
    found, _ = infer(boxes, scores)
    assert found.pred_boxes.tensor.tolist() == [[0, 0, 10, 10], [60, 60, 70, 70]]


@pytest.mark.bundled_only
def test_rows_count_from_the_input_even_behind_a_broken_row():
    boxes = torch.tensor([[0.0, 0, 10, float("nan")], [20, 20, 30, 30]])
    _, rows = infer(boxes, torch.tensor([[0.9, 0.1], [0.8, 0.2]]))
    assert rows.tolist() == [1]


def test_no_regions():
    found, rows = infer(torch.zeros(0, 12), torch.zeros(0, 4))
    assert len(found) == 0
    assert tuple(found.pred_boxes.tensor.shape) == (0, 4)
    assert rows.numel() == 0


def test_losses_by_hand():
    layer = predictor(num_classes=3)
    # Foreground of class 1 with target (0.5, 0, 0, 0) in its own deltas, and a background region.
    proposals = [labelled([[0, 0, 10, 10]], [1], [[5, 0, 15, 10]]), labelled([[0, 0, 4, 4]], [3])]
    logits = torch.zeros(2, 4)
    deltas = torch.full((2, 12), 100.0)
    deltas[0, 4:8] = torch.tensor([0.25, 0.0, -1.0, 0.0])
    with EventStorage():
        losses = layer.losses((logits, deltas), proposals)
    assert losses["loss_cls"].item() == pytest.approx(math.log(4))
    assert losses["loss_box_reg"].item() == pytest.approx((0.25 + 1.0) / 2)


def test_only_the_true_class_gets_a_box_gradient():
    deltas = torch.randn(3, 12, requires_grad=True)
    proposals = [labelled([[0, 0, 10, 10]] * 3, [2, 0, 3], [[1, 1, 9, 9]] * 3)]
    with EventStorage():
        predictor().losses((torch.zeros(3, 4), deltas), proposals)["loss_box_reg"].backward()
    touched = deltas.grad.view(3, 3, 4).abs().sum(dim=2) > 0
    assert touched.tolist() == [[False, False, True], [True, False, False], [False, False, False]]


def test_class_agnostic_boxes_and_loss_weights():
    kwargs = dict(cls_agnostic_bbox_reg=True, smooth_l1_beta=1.0)
    proposals = [labelled([[0, 0, 10, 10]], [1], [[5, 0, 15, 10]])]
    deltas = torch.zeros(1, 4)
    found = {}
    for weight in (1.0, 2.0, {"loss_box_reg": 4.0}):
        layer = predictor(loss_weight=weight, **kwargs)
        assert tuple(layer.bbox_pred.weight.shape) == (4, 4)
        with EventStorage():
            losses = layer.losses((torch.zeros(1, 4), deltas), proposals)
        found[str(weight)] = [losses["loss_cls"].item(), losses["loss_box_reg"].item()]
    # smooth L1 with beta 1 at 0.5: 0.5 * 0.5**2
    assert found["1.0"] == pytest.approx([math.log(4), 0.125])
    assert found["2.0"] == pytest.approx([2 * math.log(4), 0.25])
    assert found["{'loss_box_reg': 4.0}"] == pytest.approx([math.log(4), 0.5])


def test_giou_box_loss():
    # Deltas of zero predict the proposal: union 100, overlap 50, hull 100.
    layer = predictor(box_reg_loss_type="giou")
    proposals = [labelled([[0, 0, 10, 10]], [0], [[0, 0, 10, 5]])]
    with EventStorage():
        losses = layer.losses((torch.zeros(1, 4), torch.zeros(1, 12)), proposals)
    assert losses["loss_box_reg"].item() == pytest.approx(0.5, abs=1e-5)


@pytest.mark.parametrize("agnostic", [True, pytest.param(False, marks=pytest.mark.bundled_only)])
def test_empty_batch_keeps_the_graph(agnostic):
    layer = predictor(cls_agnostic_bbox_reg=agnostic)
    logits = torch.zeros(0, 4, requires_grad=True)
    deltas = torch.zeros(0, 4 if agnostic else 12, requires_grad=True)
    losses = layer.losses((logits, deltas), [])
    assert all(value.item() == 0 for value in losses.values())
    sum(losses.values()).backward()
    assert logits.grad is not None
    assert deltas.grad is not None
    assert layer.inference((logits, deltas), []) == ([], [])


def test_logged_statistics():
    # Predicted 0, 3 (background), 1, 3; true 0, 2, 2, 3.
    logits = torch.eye(4)[[0, 3, 1, 3]]
    with EventStorage() as storage:
        _log_classification_stats(logits, torch.tensor([0, 2, 2, 3]), prefix="p")
        _log_classification_stats(logits[3:], torch.tensor([3]), prefix="background")
        _log_classification_stats(logits[:0], torch.zeros(0, dtype=torch.int64), prefix="nothing")
    latest = {name: value for name, (value, _) in storage.latest().items()}
    assert latest == pytest.approx(
        {
            "p/cls_accuracy": 0.5,
            "p/fg_cls_accuracy": 1 / 3,
            "p/false_negative": 1 / 3,
            "background/cls_accuracy": 1.0,
        }
    )


def test_sigmoid_cross_entropy():
    layer = predictor(use_sigmoid_ce=True)
    logits = torch.tensor([[0.0, 0.0, 0.0, 9.0], [2.0, -1.0, 0.5, 0.0]])
    loss = layer.sigmoid_cross_entropy_loss(logits, torch.tensor([3, 0]))
    by_hand = 3 * math.log(2) - math.log(torch.sigmoid(torch.tensor(2.0)))
    by_hand += sum(math.log1p(math.exp(x)) for x in (-1.0, 0.5))
    assert loss.item() == pytest.approx(by_hand / 2, rel=1e-5)
    assert layer.sigmoid_cross_entropy_loss(logits[:0], torch.zeros(0, dtype=torch.int64)).item() == 0
    proposal = labelled([[0, 0, 1, 1]] * 2, [3, 0])
    (probabilities,) = layer.predict_probs((logits, None), [proposal])
    assert torch.allclose(probabilities, logits.sigmoid())


def test_federated_loss_looks_at_present_and_sampled_classes_only():
    weights = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0])
    layer = predictor(
        num_classes=5,
        use_sigmoid_ce=True,
        use_fed_loss=True,
        fed_loss_num_classes=4,
        get_fed_loss_cls_weights=lambda: weights,
    )
    logits = torch.randn(2, 6, requires_grad=True)
    # Present: class 1 and the background; the others are drawn from 0, 2, 4, never from 3 (weight 0).
    classes = layer.get_fed_loss_classes(torch.tensor([1, 5]), 4, 5, weights)
    assert classes[:2].tolist() == [1, 5]
    assert len(set(classes.tolist())) == 4
    assert set(classes[2:].tolist()) < {0, 2, 4}
    torch.manual_seed(0)
    expected = set(layer.get_fed_loss_classes(torch.tensor([1, 5]), 4, 5, weights).tolist()) - {5}
    torch.manual_seed(0)
    layer.sigmoid_cross_entropy_loss(logits, torch.tensor([1, 5])).backward()
    assert set((logits.grad.abs().sum(dim=0) > 0).nonzero().flatten().tolist()) == expected
    assert layer.get_fed_loss_classes(torch.tensor([1, 2, 5]), 2, 5, weights).tolist() == [1, 2, 5]
    assert "fed_loss_cls_weights" in layer.state_dict()
    with pytest.raises(AssertionError):
        predictor(use_fed_loss=True, get_fed_loss_cls_weights=lambda: weights)


def test_predicted_boxes():
    layer = predictor(num_classes=2)
    proposals = [labelled([[0, 0, 10, 10], [10, 10, 30, 30]], [1, 2]), labelled([[4, 4, 8, 8]], [0])]
    deltas = torch.zeros(3, 8)
    deltas[:, 4] = 0.5  # class 1: half a width to the right
    boxes = layer.predict_boxes((None, deltas), proposals)
    assert [tuple(x.shape) for x in boxes] == [(2, 8), (1, 8)]
    assert boxes[0][0].tolist() == [0, 0, 10, 10, 5, 0, 15, 10]
    of_gt = layer.predict_boxes_for_gt_classes((None, deltas), proposals)
    assert of_gt[0][0].tolist() == [5, 0, 15, 10]
    assert of_gt[1].tolist() == [[4, 4, 8, 8]]
    assert proposals[0].gt_classes.tolist() == [1, 2]


def test_forward_flattens_and_initial_weights_are_small():
    torch.manual_seed(0)
    layer = FastRCNNOutputLayers(
        ShapeSpec(channels=8, height=7, width=7), box2box_transform=Box2BoxTransform((1, 1, 1, 1)), num_classes=20
    )
    scores, deltas = layer(torch.randn(2, 8, 7, 7))
    assert (tuple(scores.shape), tuple(deltas.shape)) == ((2, 21), (2, 80))
    assert layer.cls_score.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert layer.bbox_pred.weight.std().item() == pytest.approx(0.001, rel=0.1)
    assert layer.cls_score.bias.abs().sum() + layer.bbox_pred.bias.abs().sum() == 0
    assert list(layer.state_dict()) == ["cls_score.weight", "cls_score.bias", "bbox_pred.weight", "bbox_pred.bias"]


def test_from_config():
    cfg = get_cfg()
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 7
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.3
    cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE = "ciou"
    cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT = 3.0
    cfg.TEST.DETECTIONS_PER_IMAGE = 11
    layer = FastRCNNOutputLayers(cfg, ShapeSpec(channels=4))
    assert layer.num_classes == 7
    assert (layer.test_score_thresh, layer.test_topk_per_image) == (0.3, 11)
    assert (layer.box_reg_loss_type, dict(layer.loss_weight)) == ("ciou", {"loss_box_reg": 3.0})
    assert layer.box2box_transform.weights == (10.0, 10.0, 5.0, 5.0)
