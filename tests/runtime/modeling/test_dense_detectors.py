"""RetinaNet and FCOS: labels, losses and decoding by hand, and end to end on a tiny network."""

import math

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import FCOS, Backbone, RetinaNet
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch.dense_detector import DenseDetector, permute_to_N_HWA_K
from detectron2.modeling.meta_arch.fcos import FCOSHead
from detectron2.modeling.meta_arch.retinanet import RetinaNetHead
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn

K = 3
SHAPES = {"p3": ShapeSpec(channels=8, stride=8), "p4": ShapeSpec(channels=8, stride=16)}


class TwoLevels(Backbone):
    """One strided convolution, and its output pooled."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 8, stride=8)

    def forward(self, x):
        x = self.stem(x).relu()
        return {"p4": nn.functional.avg_pool2d(x, 2), "p3": x}

    @property
    def size_divisibility(self):
        return 16

    def output_shape(self):
        return dict(reversed(SHAPES.items()))


def retinanet(norm="", **kwargs):
    torch.manual_seed(0)
    shapes = list(SHAPES.values())
    args = dict(
        backbone=TwoLevels(),
        head=RetinaNetHead(input_shape=shapes, num_classes=K, num_anchors=2, conv_dims=[8, 8], norm=norm),
        head_in_features=["p3", "p4"],
        anchor_generator=DefaultAnchorGenerator(
            sizes=[[16], [32]], aspect_ratios=[1.0, 2.0], strides=[8, 16], offset=0.5
        ),
        box2box_transform=Box2BoxTransform(weights=(1.0, 1.0, 1.0, 1.0)),
        anchor_matcher=Matcher([0.4, 0.5], [0, -1, 1], allow_low_quality_matches=True),
        num_classes=K,
        pixel_mean=[100.0] * 3,
        pixel_std=[50.0] * 3,
    )
    return RetinaNet(**{**args, **kwargs})


def fcos(**kwargs):
    torch.manual_seed(0)
    head = FCOSHead(input_shape=list(SHAPES.values()), num_classes=K, conv_dims=[8])
    args = dict(backbone=TwoLevels(), head=head, num_classes=K, pixel_mean=[100.0] * 3, pixel_std=[50.0] * 3)
    return FCOS(**{**args, **kwargs})


def truth(boxes, classes, size=(32, 48)):
    x = Instances(size, gt_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)))
    x.gt_classes = torch.tensor(classes, dtype=torch.int64)
    return x


def inputs(*truths):
    generator = torch.Generator().manual_seed(1)
    return [
        {"image": torch.randint(0, 256, (3, 32, 48), generator=generator, dtype=torch.uint8), "instances": x}
        for x in truths
    ]


OBJECTS = truth([[4, 4, 20, 18], [20, 6, 46, 30]], [1, 2])


def test_permutation_of_dense_predictions():
    n, a, k, h, w = 2, 3, 4, 5, 6
    x = torch.randn(n, a * k, h, w)
    y = permute_to_N_HWA_K(x, k)
    assert tuple(y.shape) == (n, h * w * a, k)
    row, column, anchor = 3, 2, 1
    assert torch.equal(y[1, (row * w + column) * a + anchor], x[1, anchor * k : anchor * k + k, row, column])


def test_levels_are_taken_finest_first():
    assert DenseDetector(TwoLevels(), nn.Identity(), pixel_mean=[0.0], pixel_std=[1.0]).head_in_features == ["p3", "p4"]


def test_moving_average():
    model = fcos()
    assert model._ema_update("x", 10.0, initial_value=100) == pytest.approx(91)
    assert model._ema_update("x", 0.0, initial_value=5, momentum=0.5) == pytest.approx(45.5)
    assert model.x == pytest.approx(45.5)


def test_retinanet_head():
    torch.manual_seed(0)
    head = RetinaNetHead(
        input_shape=list(SHAPES.values()), num_classes=K, num_anchors=2, conv_dims=[8, 6], prior_prob=0.02
    )
    logits, deltas = head([torch.randn(2, 8, 4, 6), torch.randn(2, 8, 2, 3)])
    assert [tuple(x.shape) for x in logits] == [(2, 6, 4, 6), (2, 6, 2, 3)]
    assert [tuple(x.shape) for x in deltas] == [(2, 8, 4, 6), (2, 8, 2, 3)]
    assert head.cls_score.bias.sigmoid().tolist() == pytest.approx([0.02] * 6)
    assert list(head.cls_subnet._modules) == ["0", "1", "2", "3"]
    assert head.bbox_subnet[2].weight.std().item() == pytest.approx(0.01, rel=0.15)
    with pytest.raises(AssertionError):
        head([torch.randn(2, 8, 4, 6)])


def test_batch_norm_of_the_head_keeps_statistics_per_level():
    head = RetinaNetHead(input_shape=list(SHAPES.values()), num_classes=K, num_anchors=1, conv_dims=[8], norm="BN")
    head([torch.randn(2, 8, 4, 6), torch.randn(2, 8, 2, 3) * 9 + 5])
    keys = [k for k in head.state_dict() if k.endswith("running_mean")]
    assert keys == [f"{tower}_subnet.1.{level}.running_mean" for tower in ("cls", "bbox") for level in (0, 1)]
    first, second = (head.state_dict()[k] for k in keys[:2])
    assert not torch.allclose(first, second)
    group = RetinaNetHead(input_shape=list(SHAPES.values()), num_classes=K, num_anchors=1, conv_dims=[32], norm="GN")
    assert "cls_subnet.1.weight" in group.state_dict()


def test_retinanet_labels():
    model = retinanet()
    anchors = [Boxes(torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 4.5]])), Boxes(torch.tensor([[50.0, 50, 60, 60]]))]
    labels, boxes = model.label_anchors(anchors, [truth([[0, 0, 10, 10]], [2]), truth([], [])])
    assert labels[0].tolist() == [2, -1, K]
    assert boxes[0][0].tolist() == [0, 0, 10, 10]
    assert labels[1].tolist() == [K] * 3
    assert tuple(boxes[1].shape) == (3, 4)


def test_retinanet_losses_by_hand():
    model = retinanet()
    anchors = [Boxes(torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10]])), Boxes(torch.tensor([[50.0, 50, 60, 60]]))]
    labels = [torch.tensor([1, -1, K])]
    gt_boxes = [torch.tensor([[5.0, 0, 15, 10], [0, 0, 1, 1], [0, 0, 1, 1]])]
    logits = [torch.zeros(1, 2, K), torch.zeros(1, 1, K)]
    deltas = [torch.zeros(1, 2, 4), torch.zeros(1, 1, 4)]
    with EventStorage() as storage:
        losses = model.losses(anchors, logits, labels, deltas, gt_boxes)
    normalizer = 0.9 * 100 + 0.1 * 1
    # p = 0.5 everywhere: one positive of weight alpha, five negatives of weight 1 - alpha, each 0.5**2 * log 2
    focal = (0.25 + 5 * 0.75) * 0.25 * math.log(2)
    assert losses["loss_cls"].item() == pytest.approx(focal / normalizer)
    assert losses["loss_box_reg"].item() == pytest.approx(0.5 / normalizer)
    assert storage.latest()["num_pos_anchors"][0] == 1
    assert model.loss_normalizer == pytest.approx(normalizer)


def test_retinanet_decoding():
    model = retinanet(test_score_thresh=0.3, test_nms_thresh=0.5, max_detections_per_image=2)
    anchors = [
        Boxes(torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10]])),
        Boxes(torch.tensor([[20.0, 20, 30, 30], [40, 40, 50, 50]])),
    ]
    scores = [
        torch.tensor([[0.9, 0.1, 0.0], [0.8, 0.0, 0.0]]),
        torch.tensor([[0.0, 0.3, 0.5], [0.0, 0.4, 0.0]]),
    ]
    deltas = [torch.zeros(2, 4), torch.tensor([[0.5, 0, 0, 0], [0, 0, 0, 0]])]
    found = model.inference_single_image(anchors, scores, deltas, (60, 60))
    assert found.scores.tolist() == pytest.approx([0.9, 0.5])
    assert found.pred_classes.tolist() == [0, 2]
    assert found.pred_boxes.tensor.tolist() == [[0, 0, 10, 10], [25, 20, 35, 30]]
    model.test_topk_candidates = 1
    model.max_detections_per_image = 10
    assert model.inference_single_image(anchors, scores, deltas, (60, 60)).scores.tolist() == pytest.approx([0.9, 0.5])


def location_anchors(model, sizes=((4, 6), (2, 3))):
    return model.anchor_generator([torch.zeros(1, 8, h, w) for h, w in sizes])


def test_fcos_locations_are_stride_sized_squares():
    fine, coarse = location_anchors(fcos())
    assert fine.tensor[1].tolist() == [8, 0, 16, 8]
    assert (coarse.tensor[:, 2] - coarse.tensor[:, 0]).unique().tolist() == [16]


def test_fcos_labels():
    model = fcos()
    anchors = location_anchors(model)
    centers = Boxes.cat(anchors).get_centers()
    # Both go to the fine level (reach below 8 * 8); the nested one wins where both match.
    labels, boxes = model.label_anchors(anchors, [truth([[0, 0, 32, 32], [16, 16, 24, 24]], [0, 1]), truth([], [])])
    fine = {tuple(c): label for c, label in zip(centers[:24].tolist(), labels[0][:24].tolist(), strict=True)}
    assert {c for c, label in fine.items() if label == 1} == {(20.0, 20.0)}
    # Less than 1.5 strides (12 pixels) from the centre (16, 16) of the large box.
    assert {c for c, label in fine.items() if label == 0} == {(12.0, 12.0), (12.0, 20.0), (20.0, 12.0)}
    assert set(labels[0][24:].tolist()) == {K}, "the coarse level takes reaches of more than 64 pixels"
    matched = boxes[0][labels[0] == 1]
    assert matched.tolist() == [[16, 16, 24, 24]]
    assert set(labels[1].tolist()) == {K}


def test_fcos_large_boxes_go_to_the_coarse_level():
    model = fcos()
    anchors = location_anchors(model, ((20, 20), (10, 10)))
    labels, _ = model.label_anchors(anchors, [truth([[10, 10, 150, 150]], [2], size=(160, 160))])
    assert (labels[0][:400] == 2).sum() == 0
    assert (labels[0][400:] == 2).sum() == 4


def test_fcos_centerness():
    model = fcos()
    anchors = [Boxes(torch.tensor([[6.0, 6, 14, 14], [0, 6, 8, 14]]))]
    targets = model.compute_ctrness_targets(anchors, [torch.tensor([[0.0, 0, 20, 20], [0, 0, 20, 20]])])
    # Second location: left 4, right 16, top and bottom 10.
    assert targets.tolist() == [pytest.approx([1.0, math.sqrt(0.25)])]


def test_fcos_losses_by_hand():
    model = fcos()
    anchors = [Boxes(torch.tensor([[6.0, 6, 14, 14], [0, 6, 8, 14]]))]
    gt_boxes = [torch.tensor([[2.0, 2, 18, 18], [0, 0, 1, 1]])]
    # The transform is in units of 8 pixels: distances of 1 give the true box.
    deltas = [torch.ones(1, 2, 4)]
    with EventStorage() as storage:
        losses = model.losses(
            anchors, [torch.zeros(1, 2, K)], [torch.tensor([0, K])], deltas, gt_boxes, [torch.zeros(1, 2, 1)]
        )
    normalizer = 0.9 * 300 + 0.1
    focal = (0.25 + 5 * 0.75) * 0.25 * math.log(2)
    assert losses["loss_fcos_cls"].item() == pytest.approx(focal / normalizer)
    assert losses["loss_fcos_loc"].item() == pytest.approx(0, abs=1e-6)
    assert losses["loss_fcos_ctr"].item() == pytest.approx(math.log(2) / normalizer)
    assert storage.latest()["num_pos_anchors"][0] == 1


def test_fcos_scores_combine_class_and_centerness():
    model = fcos(test_score_thresh=0.0).eval()
    with torch.no_grad():
        for p in model.head.parameters():
            p.zero_()
        model.head.cls_score.bias.copy_(torch.tensor([2.0, -30, -30]))
        model.head.bbox_pred.bias.fill_(0.5)
        model.head.ctrness.bias.fill_(1.0)
        found = model(inputs(OBJECTS))[0]["instances"]
    expected = math.sqrt(torch.tensor(2.0).sigmoid() * torch.tensor(1.0).sigmoid())
    best = found[found.pred_classes == 0]
    assert best.scores.tolist() == pytest.approx([expected] * len(best))
    assert len(best) > 0


@pytest.mark.parametrize("make", [retinanet, fcos])
@pytest.mark.parametrize("truths", [(OBJECTS, OBJECTS), (OBJECTS, truth([], [])), (truth([], []), truth([], []))])
def test_training_end_to_end(make, truths):
    model = make()
    with EventStorage():
        losses = model(inputs(*truths))
    names = {"loss_cls", "loss_box_reg"} if make is retinanet else {f"loss_fcos_{x}" for x in ("cls", "loc", "ctr")}
    assert set(losses) == names
    assert all(value.isfinite() for value in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("make", [retinanet, fcos])
def test_detections_have_the_requested_size(make):
    model = make(test_score_thresh=0.0, max_detections_per_image=7).eval()
    batch = inputs(OBJECTS, OBJECTS)
    batch[0].update(height=64, width=48)
    with torch.no_grad():
        first, second = (x["instances"] for x in model(batch))
    assert first.image_size == (64, 48)
    assert second.image_size == (32, 48)
    assert 0 < len(first) <= 7
    assert first.scores.tolist() == sorted(first.scores.tolist(), reverse=True)


@pytest.mark.parametrize("make", [retinanet, fcos])
def test_training_needs_ground_truth(make):
    with pytest.raises(AssertionError):
        make()([{"image": torch.zeros(3, 32, 48)}])


@pytest.mark.parametrize("make", [retinanet, pytest.param(fcos, marks=pytest.mark.bundled_only)])
def test_picture(make):
    model = make(test_score_thresh=0.0)
    model.input_format = "BGR"
    found = Instances((32, 48), pred_boxes=Boxes(torch.tensor([[1.0, 1, 20, 20]])), scores=torch.ones(1))
    with EventStorage() as storage:
        model.visualize_training(inputs(OBJECTS), [found])
        ((name, picture, _),) = storage._vis_data
    assert name == "Top: GT bounding boxes; Bottom: 20 Highest Scoring Results"
    assert tuple(picture.shape) == (3, 64, 48)
    with pytest.raises(AssertionError):
        model.visualize_training(inputs(OBJECTS), [])


def test_retinanet_from_config():
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME = "build_retinanet_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 8
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32, 40]]
    cfg.MODEL.RETINANET.NUM_CLASSES = 5
    cfg.MODEL.RETINANET.NUM_CONVS = 2
    model = RetinaNet(cfg)
    assert model.head.cls_score.out_channels == 2 * 3 * 5
    assert model.head_in_features == ["p3", "p4", "p5", "p6", "p7"]
    assert model.test_topk_candidates == 1000
    assert {"head.cls_subnet.2.weight", "head.bbox_pred.bias", "backbone.top_block.p7.weight"} <= set(
        model.state_dict()
    )
