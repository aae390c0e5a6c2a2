"""Ignored boxes in two-stage detectors: labels of anchors and samples of proposals by hand."""

import pytest
import torch
from detectron2.config import instantiate
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import StandardROIHeads
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from instseg_d2.data.shared_map import SharedBoxes
from instseg_d2.modeling.ignored_regions import IgnoringROIHeads, IgnoringRPN, inside_ignored, mostly_ignored
from instseg_d2.testing import fake_batch, fake_instances, tiny_mask_rcnn_config, without_objects

OBJECT = [0, 0, 20, 20]
# Of the last three 0.5, 0.49 and 1 of the area lie in the ignored box, of the others nothing.
BOXES = [[0, 0, 20, 20], [60, 0, 80, 20], [40, 40, 60, 60], [31, 20, 51, 40], [30.8, 20, 50.8, 40], [44, 24, 48, 28]]
IGNORED = [[41.0, 20.0, 61.0, 40.0]]


def boxes(corners):
    return Boxes(torch.tensor(corners, dtype=torch.float32))


def with_ignored(truth, ignored=IGNORED):
    truth.gt_ignored = SharedBoxes(torch.tensor(ignored), len(truth))
    return truth


def test_points_and_boxes_in_ignored_boxes():
    truth = with_ignored(fake_instances(64, 96, []), [*IGNORED, [0.0, 0.0, 10.0, 10.0]])
    points = torch.tensor([[41.0, 30.0], [41.5, 20.5], [60.9, 39.9], [50.0, 40.0], [5.0, 5.0], [50.0, 5.0]])
    assert inside_ignored(points, truth).tolist() == [False, True, True, False, True, False]
    assert mostly_ignored(boxes(BOXES), truth).tolist() == [False, False, False, True, False, True]
    # Half of it lies in the two together.
    halves = with_ignored(fake_instances(64, 96, []), [[0.0, 0.0, 5.0, 10.0], [15.0, 0.0, 20.0, 10.0]])
    assert not mostly_ignored(boxes([[0, 0, 20, 10]]), halves).any()


def build(**parts):
    config = tiny_mask_rcnn_config()
    for name, target in parts.items():
        config[name]._target_ = target
    # As many as there are: nothing is left to chance.
    config.proposal_generator.batch_size_per_image = 10**6
    torch.manual_seed(0)
    return instantiate(config)


@pytest.mark.parametrize("objects", [[OBJECT], []])
def test_anchors_in_ignored_boxes_are_no_negatives(objects):
    rpn = build(proposal_generator=IgnoringRPN).proposal_generator
    anchors = [boxes(BOXES[:3]), boxes(BOXES[3:])]
    plain = fake_instances(64, 96, objects)
    labels, matched = rpn.label_and_sample_anchors(anchors, [plain, with_ignored(fake_instances(64, 96, objects))])
    first = int(bool(objects))
    assert labels[0].tolist() == [first, 0, 0, 0, 0, 0]
    assert labels[1].tolist() == [first, 0, 0, -1, 0, -1]
    assert matched[1].shape == (6, 4)


def test_positive_anchors_in_ignored_boxes_stay():
    rpn = build(proposal_generator=IgnoringRPN).proposal_generator
    truth = with_ignored(fake_instances(64, 96, [OBJECT]), [[0.0, 0.0, 96.0, 64.0]])
    labels, _ = rpn.label_and_sample_anchors([boxes(BOXES)], [truth])
    assert labels[0].tolist() == [1, -1, -1, -1, -1, -1]


@pytest.mark.parametrize("objects", [[OBJECT], []])
def test_background_is_not_sampled_from_ignored_boxes(objects):
    heads = build(roi_heads=IgnoringROIHeads).roi_heads
    heads.proposal_append_gt = False
    proposals = [Instances((64, 96), proposal_boxes=boxes(BOXES), objectness_logits=torch.zeros(6)) for _ in range(2)]
    truths = [fake_instances(64, 96, objects), with_ignored(fake_instances(64, 96, objects))]
    with EventStorage():
        samples = heads.label_and_sample_proposals(proposals, truths)
    label_of_first = 0 if objects else 3
    for sample, chosen in zip(samples, ([0, 1, 2, 3, 4, 5], [0, 1, 2, 4]), strict=True):
        rows, numbers = (sample.proposal_boxes.tensor[:, None] == boxes(BOXES).tensor).all(dim=2).nonzero(as_tuple=True)
        assert rows.tolist() == list(range(len(sample)))
        assert sorted(numbers.tolist()) == chosen
        assert sample.gt_classes.tolist() == [3 if number else label_of_first for number in numbers.tolist()]


def test_objects_in_ignored_boxes_are_sampled():
    heads = build(roi_heads=IgnoringROIHeads).roi_heads
    found = Instances((64, 96), proposal_boxes=boxes(BOXES), objectness_logits=torch.zeros(6))
    everything = with_ignored(fake_instances(64, 96, [OBJECT]), [[0.0, 0.0, 96.0, 64.0]])
    with EventStorage():
        (sample,) = heads.label_and_sample_proposals([found], [everything])
    # The proposal, and the true box that is added to the proposals.
    assert sample.proposal_boxes.tensor.tolist() == [OBJECT, OBJECT]
    assert sample.gt_classes.tolist() == [0, 0]


def losses(batch, **parts):
    model = build(**parts)
    torch.manual_seed(1)
    with EventStorage():
        result = model(batch)
    sum(result.values()).backward()
    return result, [parameter.grad for parameter in model.parameters()]


IGNORING = {"proposal_generator": IgnoringRPN, "roi_heads": IgnoringROIHeads}


def test_without_ignored_boxes_nothing_changes():
    ours, gradients = losses(fake_batch(), **IGNORING)
    theirs, expected = losses(fake_batch(), proposal_generator=RPN, roi_heads=StandardROIHeads)
    assert {name: value.item() for name, value in ours.items()} == {
        name: value.item() for name, value in theirs.items()
    }
    assert all(
        (one is None and two is None) or torch.equal(one, two) for one, two in zip(gradients, expected, strict=True)
    )


def test_an_image_that_is_ignored_as_a_whole_trains_on_its_objects_alone():
    batch = fake_batch(1)
    with_ignored(batch[0]["instances"], [[0.0, 0.0, 96.0, 64.0]])
    before, _ = losses(fake_batch(1), **IGNORING)
    after, _ = losses(batch, **IGNORING)
    assert after["loss_rpn_cls"] < before["loss_rpn_cls"]
    assert torch.equal(after["loss_rpn_loc"], before["loss_rpn_loc"])
    empty = without_objects(fake_batch(1))
    with_ignored(empty[0]["instances"], [[-50.0, -50.0, 200.0, 200.0]])
    nothing, _ = losses(empty, **IGNORING)
    assert {name: value.item() for name, value in nothing.items()} == dict.fromkeys(nothing, 0)
