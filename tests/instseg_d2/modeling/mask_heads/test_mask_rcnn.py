"""`MaskRCNNHead` against detectron2's own head, which it can stand in for."""

import copy

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import MaskRCNNConvUpsampleHead
from detectron2.structures import PolygonMasks
from detectron2.utils.events import EventStorage

from instseg_d2.modeling.mask_heads.mask_rcnn import MaskRCNNHead
from instseg_d2.testing import fake_instances

CLASSES = 3
BOXES = [[4, 4, 20, 24], [10, 8, 30, 30], [0, 0, 16, 12]]


def heads(num_classes, conv_norm="", conv_dims=(6, 6, 6)):
    pair = []
    for kind in (MaskRCNNConvUpsampleHead, MaskRCNNHead):
        torch.manual_seed(0)
        pair.append(
            kind(input_shape=ShapeSpec(channels=4), num_classes=num_classes, conv_dims=conv_dims, conv_norm=conv_norm)
        )
    for head in pair:  # off the small initial weights, which would hide differences
        torch.manual_seed(1)
        torch.nn.init.normal_(head.predictor.weight)
    return pair


def regions(polygons=False):
    images = [fake_instances(32, 32, BOXES[:2], [0, 2]), fake_instances(32, 32, BOXES[2:], [1])]
    for x in images:
        if polygons:
            corners = [[[a, b, c, b, (a + c) / 2, d]] for a, b, c, d in x.gt_boxes.tensor.tolist()]
            x.gt_masks = PolygonMasks(corners)
        x.proposal_boxes = x.gt_boxes.clone()
        x.proposal_boxes.tensor += torch.tensor([-2.0, 1, 3, 2])
    return images


def detections():
    images = regions()
    for x in images:
        x.pred_boxes, x.pred_classes = x.proposal_boxes, x.gt_classes
    return images


@pytest.mark.parametrize("conv_norm", ["", "BN"])
def test_same_names_and_same_initial_weights(conv_norm):
    theirs, ours = heads(CLASSES, conv_norm)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name


@pytest.mark.parametrize("num_classes", [CLASSES, 1])
@pytest.mark.parametrize("polygons", [False, True])
def test_same_losses_statistics_and_gradients(num_classes, polygons):
    torch.manual_seed(2)
    x, results = torch.randn(3, 4, 7, 7), []
    for head in heads(num_classes):
        features = x.clone().requires_grad_()
        with EventStorage() as storage:
            losses = head(features, regions(polygons))
        losses["loss_mask"].backward()
        gradients = [features.grad, *(parameter.grad for parameter in head.parameters())]
        results.append((losses, {name: value for name, (value, _) in storage.latest().items()}, gradients))
    (their_losses, their_scalars, their_gradients), (losses, scalars, gradients) = results
    assert set(losses) == set(their_losses) == {"loss_mask"}
    assert losses["loss_mask"].item() == their_losses["loss_mask"].item() > 0
    assert scalars == pytest.approx(their_scalars)
    assert set(scalars) == {f"mask_rcnn/{name}" for name in ("accuracy", "false_positive", "false_negative")}
    for ours, expected in zip(gradients, their_gradients, strict=True):
        assert torch.allclose(ours, expected, atol=1e-7)
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


@pytest.mark.parametrize("num_classes", [CLASSES, 1])
def test_same_masks(num_classes):
    torch.manual_seed(2)
    x = torch.randn(3, 4, 7, 7)
    with torch.no_grad():
        theirs, ours = (head.eval()(x, detections()) for head in heads(num_classes))
    for expected, found in zip(theirs, ours, strict=True):
        assert found.pred_masks.shape == (len(found), 1, 14, 14)
        assert torch.equal(found.pred_masks, expected.pred_masks)


def test_checkpoint_of_detectron2_loads():
    theirs, ours = heads(CLASSES)
    trained = copy.deepcopy(theirs)
    for parameter in trained.parameters():
        torch.nn.init.normal_(parameter)
    ours.load_state_dict(trained.state_dict())
    x = torch.randn(1, 4, 7, 7)
    assert torch.equal(ours.layers(x, [])[1], trained.layers(x))


def test_layers_return_features_and_logits():
    _, head = heads(CLASSES)
    features, logits = head.layers(torch.randn(5, 4, 7, 7), [])
    assert features.shape == (5, 6, 14, 14)
    assert torch.equal(head.predictor(features), logits)
    assert logits.shape == (5, CLASSES, 14, 14)


def test_nothing_to_segment_gives_zero_gradients():
    _, head = heads(CLASSES)
    images = regions()
    losses = head(torch.randn(0, 4, 7, 7), [x[torch.zeros(len(x), dtype=torch.bool)] for x in images])
    losses["loss_mask"].backward()
    assert losses["loss_mask"].item() == 0
    assert all((parameter.grad == 0).all() for parameter in head.parameters())


def test_hidden_masks_leave_the_loss_of_the_others():
    _, head = heads(CLASSES)
    images, x = regions(), torch.randn(3, 4, 7, 7)
    images[0].gt_has_mask = torch.tensor([True, False])
    images[1].gt_has_mask = torch.tensor([True])
    with EventStorage():
        partial = head(x, images)["loss_mask"]
        visible = head(x[[0, 2]], [images[0][:1], images[1]])["loss_mask"]
    assert partial.item() == pytest.approx(visible.item(), rel=1e-6)


def test_autocast_trains_and_predicts():
    _, head = heads(CLASSES)
    x = torch.randn(3, 4, 7, 7)
    with torch.autocast("cpu", dtype=torch.bfloat16), EventStorage():
        loss = head(x, regions())["loss_mask"]
        masks = head.eval()(x, detections())[0].pred_masks
    loss.backward()
    assert loss.dtype == masks.dtype == torch.float32
    assert head.predictor.weight.grad.isfinite().all()


def test_no_widths_is_an_error():
    with pytest.raises(ValueError, match="conv_dims is empty"):
        MaskRCNNHead(input_shape=ShapeSpec(channels=4), num_classes=1, conv_dims=[])
