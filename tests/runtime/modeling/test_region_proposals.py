"""RPN: its head, labels, losses and proposals, by hand and by loops."""

import math

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_proposal_generator
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform, Box2BoxTransformLinear
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.proposal_generator import RPN, StandardRPNHead
from detectron2.modeling.proposal_generator.proposal_utils import (
    add_ground_truth_to_proposals,
    add_ground_truth_to_proposals_single_image,
    find_top_rpn_proposals,
)
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage
from torchvision.ops import nms

STRIDES = {"p3": 8, "p4": 16}


def make_rpn(**kwargs):
    settings = {
        "in_features": list(STRIDES),
        "head": StandardRPNHead(in_channels=4, num_anchors=3),
        "anchor_generator": DefaultAnchorGenerator(
            sizes=[[24], [48]], aspect_ratios=[0.5, 1.0, 2.0], strides=list(STRIDES.values())
        ),
        "anchor_matcher": Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True),
        "box2box_transform": Box2BoxTransform((1.0, 1.0, 1.0, 1.0)),
        "batch_size_per_image": 32,
        "positive_fraction": 0.5,
        "pre_nms_topk": (60, 40),
        "post_nms_topk": (30, 20),
    }
    return RPN(**settings | kwargs)


@pytest.fixture
def batch():
    torch.manual_seed(0)
    sizes = [(64, 96), (60, 80)]
    images = ImageList(torch.zeros(2, 3, 64, 96), sizes)
    features = {name: torch.randn(2, 4, 64 // s, 96 // s) * 30 for name, s in STRIDES.items()}
    gt = []
    for size, boxes in zip(sizes, ([[10.0, 10, 40, 36], [50, 20, 90, 60]], []), strict=True):
        instances = Instances(size)
        instances.gt_boxes = Boxes(torch.tensor(boxes).view(-1, 4))
        gt.append(instances)
    return images, features, gt


def test_names_of_the_head():
    one = StandardRPNHead(in_channels=4, num_anchors=3)
    assert list(one.state_dict())[:2] == ["conv.weight", "conv.bias"]
    assert one.anchor_deltas.out_channels == 12
    two = StandardRPNHead(in_channels=4, num_anchors=2, box_dim=5, conv_dims=[-1, 6])
    assert [k for k in two.state_dict() if k.endswith("weight")] == [
        "conv.conv0.weight",
        "conv.conv1.weight",
        "objectness_logits.weight",
        "anchor_deltas.weight",
    ]
    assert two.objectness_logits.in_channels == 6
    assert two.anchor_deltas.out_channels == 10
    assert all(p.abs().sum() == 0 for k, p in two.named_parameters() if k.endswith("bias"))
    with pytest.raises(ValueError, match="0"):
        StandardRPNHead(in_channels=4, num_anchors=3, conv_dims=[-1, 0])


def test_scores_and_deltas_line_up_with_the_anchors(batch):
    """A head that scores one anchor of one cell, and moves it by half its width, gives that box as best proposal."""
    images, features, _ = batch

    class Head(torch.nn.Module):
        def forward(self, features):
            logits = [torch.zeros(2, 3, *f.shape[2:]) for f in features]
            deltas = [torch.zeros(2, 12, *f.shape[2:]) for f in features]
            logits[1][0, 2, 1, 3] = 9.0
            deltas[1][0, 2 * 4, 1, 3] = 0.5
            return logits, deltas

    proposals, losses = make_rpn(head=Head()).eval()(images, features)
    assert losses == {}
    # Third anchor of p4: 48^2 pixels, ratio 2, around the middle of the cell in row 1, column 3, which is (56, 24).
    width, height = 48 / math.sqrt(2), 48 * math.sqrt(2)
    x = 56 + width / 2
    expected = torch.tensor([x - width / 2, max(24 - height / 2, 0), x + width / 2, 24 + height / 2])
    torch.testing.assert_close(proposals[0].proposal_boxes.tensor[0], expected)
    assert proposals[0].objectness_logits[0] == 9
    assert proposals[1].objectness_logits[0] == 0


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_proposals_by_loops(batch, training, linear):
    images, features, gt = batch
    transform = Box2BoxTransformLinear() if linear else Box2BoxTransform((1.0, 1.0, 1.0, 1.0))
    rpn = make_rpn(box2box_transform=transform, min_box_size=6.0, nms_thresh=0.6).train(training)
    with EventStorage():
        proposals, _ = rpn(images, features, gt)
    assert not proposals[0].proposal_boxes.tensor.requires_grad

    levels = [features[name] for name in STRIDES]
    anchors = rpn.anchor_generator(levels)
    logits, deltas = rpn.rpn_head(levels)
    for i, (height, width) in enumerate(images.image_sizes):
        boxes, scores = [], []
        for level in range(2):
            score = logits[level][i].permute(1, 2, 0).flatten()
            delta = deltas[level][i].view(3, 4, *score.new_empty(logits[level].shape[2:]).shape).permute(2, 3, 0, 1)
            box = transform.apply_deltas(delta.reshape(-1, 4), anchors[level].tensor)
            score, order = score.sort(descending=True)
            score, box = score[: rpn.pre_nms_topk[training]], box[order[: rpn.pre_nms_topk[training]]]
            box = Boxes(box.detach().clone())
            box.clip((height, width))
            keep = box.nonempty(6.0)
            score, box = score[keep].detach(), box.tensor[keep]
            keep = nms(box, score, 0.6)
            boxes.append(box[keep])
            scores.append(score[keep])
        score, order = torch.cat(scores).sort(descending=True, stable=True)
        limit = rpn.post_nms_topk[training]
        torch.testing.assert_close(proposals[i].objectness_logits.detach(), score[:limit])
        torch.testing.assert_close(proposals[i].proposal_boxes.tensor, torch.cat(boxes)[order[:limit]])
        assert proposals[i].image_size == (height, width)


def test_labels_of_anchors(batch):
    images, features, gt = batch
    rpn = make_rpn(batch_size_per_image=1000, positive_fraction=1.0)
    anchors = rpn.anchor_generator([features[name] for name in STRIDES])
    labels, matched = rpn.label_and_sample_anchors(anchors, gt)
    from torchvision.ops import box_iou

    iou = box_iou(gt[0].gt_boxes.tensor, torch.cat([a.tensor for a in anchors]))
    positive = (iou.amax(0) >= 0.7) | (iou == iou.amax(1, keepdim=True)).any(0)
    expected = torch.where(positive, 1, torch.where(iou.amax(0) < 0.3, 0, -1))
    assert torch.equal(labels[0].long(), expected)
    assert torch.equal(matched[0][positive], gt[0].gt_boxes.tensor[iou.argmax(0)][positive])
    # An image without ground truth has only background.
    assert (labels[1] == 0).all()
    assert matched[1].shape == (len(expected), 4)


def test_anchors_beyond_the_image_are_ignored_on_request(batch):
    images, features, gt = batch
    anchors = make_rpn().anchor_generator([features[name] for name in STRIDES])
    rpn = make_rpn(batch_size_per_image=1000, positive_fraction=1.0, anchor_boundary_thresh=0)
    labels, _ = rpn.label_and_sample_anchors(anchors, gt)
    boxes = torch.cat([a.tensor for a in anchors])
    inside = (boxes[:, :2] >= 0).all(1) & (boxes[:, 2] < 80) & (boxes[:, 3] < 60)
    assert torch.equal(labels[1] == 0, inside)
    assert (labels[1][~inside] == -1).all()


def test_hand_computed_losses_and_events(batch):
    """Zero scores cost log 2 per sampled anchor, zero deltas the L1 distance of the foreground to its targets."""
    images, features, gt = batch
    weights = {"loss_rpn_cls": 3.0, "loss_rpn_loc": 0.25}
    rpn = make_rpn(loss_weight=weights)
    for parameter in rpn.rpn_head.parameters():
        torch.nn.init.zeros_(parameter)
    anchors = rpn.anchor_generator([features[name] for name in STRIDES])
    torch.manual_seed(7)
    labels, matched = rpn.label_and_sample_anchors(anchors, gt)
    torch.manual_seed(7)
    with EventStorage() as storage:
        _, losses = rpn(images, features, gt)
    sampled = sum((label >= 0).sum().item() for label in labels)
    positive = labels[0] == 1
    assert sampled == 64
    assert positive.sum() > 0
    assert losses["loss_rpn_cls"].item() == pytest.approx(3.0 * math.log(2) * sampled / 64)
    targets = rpn.box2box_transform.get_deltas(Boxes.cat(anchors).tensor[positive], matched[0][positive])
    assert losses["loss_rpn_loc"].item() == pytest.approx(0.25 * targets.abs().sum().item() / 64, rel=1e-5)
    latest = {name: value for name, (value, _) in storage.latest().items()}
    assert latest["rpn/num_pos_anchors"] == positive.sum().item() / 2
    assert latest["rpn/num_neg_anchors"] == (64 - positive.sum().item()) / 2

    sum(losses.values()).backward()
    # The gradient of the bias is the mean error of the score: sigmoid(0) minus the label.
    expected = 3.0 * (0.5 * sampled - positive.sum().item()) / 64
    assert rpn.rpn_head.objectness_logits.bias.grad.sum().item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_broken_predictions(broken):
    boxes = [torch.tensor([[[0.0, 0, 10, 10], [20, 20, 30, 30], [broken, 0, 5, 5], [1, 1, 9, 9.5]]])]
    logits = [torch.tensor([[1.0, 3.0, 2.0, 0.5]])]
    arguments = (boxes, logits, [(50, 50)], 0.5, 100, 100, 0.0)
    with pytest.raises(FloatingPointError):
        find_top_rpn_proposals(*arguments, training=True)
    (proposals,) = find_top_rpn_proposals(*arguments, training=False)
    assert proposals.proposal_boxes.tensor.tolist() == [[20, 20, 30, 30], [0, 0, 10, 10]]
    assert proposals.objectness_logits.tolist() == [3, 1]


def test_broken_boxes_below_the_top_do_not_matter():
    boxes = [torch.tensor([[[0.0, 0, 10, 10], [float("nan")] * 4]])]
    logits = [torch.tensor([[1.0, 0.0]])]
    (proposals,) = find_top_rpn_proposals(boxes, logits, [(50, 50)], 0.5, 1, 100, 0.0, training=True)
    assert len(proposals) == 1


def test_nms_runs_within_a_level_and_empty_boxes_go():
    box = [0.0, 0, 10, 10]
    boxes = [torch.tensor([[box, box]]), torch.tensor([[box, [60.0, 0, 70, 10]]])]
    logits = [torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]])]
    given = [b.clone() for b in boxes]
    (proposals,) = find_top_rpn_proposals(boxes, logits, [(50, 50)], 0.5, 100, 100, 0.0, training=False)
    assert proposals.objectness_logits.tolist() == [3, 2]
    # What was passed in is left alone.
    assert all(torch.equal(a, b) for a, b in zip(boxes, given, strict=True))
    (proposals,) = find_top_rpn_proposals(boxes, logits, [(50, 50)], 0.5, 100, 1, 0.0, training=False)
    assert proposals.objectness_logits.tolist() == [3]
    (proposals,) = find_top_rpn_proposals(boxes, logits, [(50, 50)], 0.5, 100, 1, 10.0, training=False)
    assert len(proposals) == 0


def proposals_with(**fields):
    proposals = Instances((50, 50))
    proposals.proposal_boxes = Boxes(torch.tensor([[1.0, 2, 3, 4]]))
    proposals.objectness_logits = torch.tensor([0.5])
    for name, value in fields.items():
        proposals.set(name, value)
    return proposals


def test_ground_truth_joins_the_proposals():
    gt = Instances((50, 50), gt_boxes=Boxes(torch.tensor([[5.0, 5, 9, 9]])), gt_classes=torch.tensor([4]))
    for given in (gt, gt.gt_boxes):
        joined = add_ground_truth_to_proposals_single_image(given, proposals_with())
        assert joined.proposal_boxes.tensor.tolist() == [[1, 2, 3, 4], [5, 5, 9, 9]]
        assert torch.sigmoid(joined.objectness_logits.double())[1].item() == pytest.approx(1 - 1e-10, abs=1e-11)
        assert set(joined.get_fields()) == {"proposal_boxes", "objectness_logits"}
    joined = add_ground_truth_to_proposals_single_image(gt, proposals_with(gt_classes=torch.tensor([7])))
    assert joined.gt_classes.tolist() == [7, 4]
    assert not gt.has("objectness_logits")
    with pytest.raises(AssertionError, match="mystery"):
        add_ground_truth_to_proposals_single_image(gt, proposals_with(mystery=torch.tensor([1])))
    assert [len(p) for p in add_ground_truth_to_proposals([gt, gt], [proposals_with(), proposals_with()])] == [2, 2]
    assert add_ground_truth_to_proposals([], []) == []
    with pytest.raises(ValueError, match="proposals"):
        add_ground_truth_to_proposals([gt], [])


def rpn_cfg(*overrides):
    cfg = get_cfg()
    cfg.merge_from_list(
        [
            *("MODEL.RPN.IN_FEATURES", list(STRIDES), "MODEL.ANCHOR_GENERATOR.SIZES", [[24], [48]]),
            *("MODEL.RPN.BBOX_REG_LOSS_WEIGHT", 2.0, "MODEL.RPN.LOSS_WEIGHT", 0.5),
            *overrides,
        ]
    )
    return cfg


def test_yacs(batch):
    images, features, gt = batch
    shapes = {name: ShapeSpec(channels=4, stride=s) for name, s in STRIDES.items()}
    rpn = build_proposal_generator(rpn_cfg("MODEL.PROPOSAL_GENERATOR.MIN_SIZE", 3), shapes)
    assert (rpn.pre_nms_topk, rpn.post_nms_topk) == ({True: 12000, False: 6000}, {True: 2000, False: 1000})
    assert (rpn.min_box_size, rpn.nms_thresh, rpn.batch_size_per_image) == (3.0, 0.7, 256)
    assert rpn.loss_weight == {"loss_rpn_cls": 0.5, "loss_rpn_loc": 1.0}
    assert rpn.anchor_generator.num_anchors == [3, 3]
    with EventStorage():
        proposals, losses = rpn(images, features, gt)
    assert set(losses) == {"loss_rpn_cls", "loss_rpn_loc"}
    assert len(proposals) == 2
    assert build_proposal_generator(rpn_cfg("MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals"), shapes) is None
    with pytest.raises(AssertionError, match="channel"):
        build_proposal_generator(rpn_cfg(), shapes | {"p4": ShapeSpec(channels=5, stride=16)})


def test_autocast(batch):
    images, features, gt = batch
    rpn = make_rpn()
    with EventStorage(), torch.autocast("cpu", dtype=torch.bfloat16):
        proposals, losses = rpn(images, features, gt)
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in rpn.parameters())
    assert proposals[0].proposal_boxes.tensor.dtype == torch.float32
    assert losses["loss_rpn_cls"].dtype == torch.float32
