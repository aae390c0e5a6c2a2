"""Labelling and sampling of proposals, and how the RoI heads drive their box and mask heads."""

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import (
    BaseMaskRCNNHead,
    CascadeROIHeads,
    FastRCNNConvFCHead,
    FastRCNNOutputLayers,
    MaskRCNNConvUpsampleHead,
    Res5ROIHeads,
    ROIHeads,
    StandardROIHeads,
    build_roi_heads,
    select_foreground_proposals,
)
from detectron2.modeling.roi_heads.cascade_rcnn import _ScaleGradient
from detectron2.structures import BitMasks, Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage

K, CHANNELS, SIZE = 3, 4, (32, 32)


def matcher(threshold=0.5):
    return Matcher([threshold], [0, 1], allow_low_quality_matches=False)


def base_args(**kwargs):
    args = dict(num_classes=K, batch_size_per_image=8, positive_fraction=0.5, proposal_matcher=matcher())
    return {**args, **kwargs}


def proposals_of(*boxes):
    x = Instances(SIZE, proposal_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)))
    x.objectness_logits = torch.zeros(len(boxes))
    return x


def target_of(boxes, classes):
    masks = torch.zeros(len(boxes), *SIZE, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[y1:y2, x1:x2] = True
    x = Instances(SIZE, gt_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)))
    x.gt_classes = torch.tensor(classes, dtype=torch.int64)
    x.gt_masks = BitMasks(masks)
    x.gt_ids = torch.arange(100, 100 + len(boxes))
    x.note = ["kept out"] * len(boxes)
    return x


def pooler(side=4):
    return ROIPooler(output_size=side, scales=(0.25,), sampling_ratio=0, pooler_type="ROIAlignV2")


def box_predictor(**kwargs):
    return FastRCNNOutputLayers(
        ShapeSpec(channels=8), box2box_transform=Box2BoxTransform((10, 10, 5, 5)), num_classes=K, **kwargs
    )


def box_head():
    return FastRCNNConvFCHead(ShapeSpec(channels=CHANNELS, height=4, width=4), conv_dims=[], fc_dims=[8])


def standard_heads(**kwargs):
    args = dict(
        box_in_features=["p2"],
        box_pooler=pooler(),
        box_head=box_head(),
        box_predictor=box_predictor(),
        mask_in_features=["p2"],
        mask_pooler=pooler(),
        mask_head=MaskRCNNConvUpsampleHead(ShapeSpec(channels=CHANNELS), num_classes=K, conv_dims=[4, 4]),
    )
    return StandardROIHeads(**{**args, **base_args(), **kwargs})


def batch():
    torch.manual_seed(3)
    features = {"p2": torch.randn(2, CHANNELS, 8, 8), "unused": torch.zeros(1)}
    proposals = [
        proposals_of([1, 1, 9, 9], [2, 2, 20, 20], [10, 10, 30, 30], [0, 0, 4, 4]),
        proposals_of([5, 5, 16, 16], [8, 0, 31, 12]),
    ]
    targets = [target_of([[1, 1, 9, 9], [11, 10, 30, 30]], [2, 0]), target_of([[4, 5, 16, 16]], [1])]
    return ImageList(torch.zeros(2, 3, *SIZE), [SIZE, SIZE]), features, proposals, targets


def latest(storage):
    return {name: value for name, (value, _) in storage.latest().items()}


def test_select_foreground():
    first = Instances(SIZE, gt_classes=torch.tensor([0, K, -1, 2]), index=torch.arange(4))
    second = Instances(SIZE, gt_classes=torch.tensor([K]), index=torch.arange(1))
    selected, masks = select_foreground_proposals([first, second], bg_label=K)
    assert selected[0].index.tolist() == [0, 3]
    assert len(selected[1]) == 0
    assert [m.tolist() for m in masks] == [[True, False, False, True], [False]]


def test_labels_and_ground_truth_fields_of_sampled_proposals():
    heads = ROIHeads(**base_args(proposal_append_gt=False))
    proposals = [proposals_of([0, 0, 10, 9], [20, 20, 30, 30], [0, 0, 30, 30])]
    target = target_of([[20, 20, 31, 30], [0, 0, 10, 10]], [2, 0])
    with EventStorage() as storage:
        (sample,) = heads.label_and_sample_proposals(proposals, [target])
    by_box = {tuple(b): i for i, b in enumerate(sample.proposal_boxes.tensor.int().tolist())}
    classes = {box: sample.gt_classes[i].item() for box, i in by_box.items()}
    assert classes == {(0, 0, 10, 9): 0, (20, 20, 30, 30): 2, (0, 0, 30, 30): K}
    first = by_box[(0, 0, 10, 9)]
    assert sample.gt_boxes.tensor[first].tolist() == [0, 0, 10, 10]
    assert sample.gt_ids[first] == 101
    assert sample.gt_masks.tensor[first].sum() == 100
    assert not sample.has("note")
    assert sample.has("objectness_logits")
    # Foreground comes first.
    assert sample.gt_classes.tolist()[-1] == K
    assert latest(storage) == {"roi_head/num_fg_samples": 2, "roi_head/num_bg_samples": 1}


def test_sampling_respects_size_and_fraction():
    torch.manual_seed(0)
    heads = ROIHeads(**base_args(batch_size_per_image=10, positive_fraction=0.3, proposal_append_gt=False))
    boxes = [[0, 0, 10, 10]] * 20 + [[20, 20, 30, 30]] * 20
    with EventStorage():
        (sample,) = heads.label_and_sample_proposals([proposals_of(*boxes)], [target_of([[0, 0, 10, 10]], [1])])
    assert sample.gt_classes.tolist() == [1] * 3 + [K] * 7


def test_ignored_proposals_are_never_sampled():
    between = Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=False)
    heads = ROIHeads(**base_args(proposal_matcher=between, proposal_append_gt=False))
    with EventStorage():
        (sample,) = heads.label_and_sample_proposals(
            [proposals_of([0, 0, 10, 10], [0, 0, 10, 5], [20, 20, 30, 30])], [target_of([[0, 0, 10, 10]], [1])]
        )
    assert sample.gt_classes.tolist() == [1, K]


def test_ground_truth_boxes_are_appended():
    heads = ROIHeads(**base_args())
    with EventStorage():
        (sample,) = heads.label_and_sample_proposals(
            [proposals_of([20, 20, 30, 30])], [target_of([[0, 0, 10, 10]], [1])]
        )
    assert sample.gt_classes.tolist() == [1, K]
    assert sample.proposal_boxes.tensor[0].tolist() == [0, 0, 10, 10]


def test_image_without_ground_truth():
    heads = ROIHeads(**base_args())
    with EventStorage() as storage:
        samples = heads.label_and_sample_proposals(
            [proposals_of([20, 20, 30, 30]), proposals_of([0, 0, 9, 9])],
            [target_of([], []), target_of([[0, 0, 9, 9]], [0])],
        )
    assert samples[0].gt_classes.tolist() == [K]
    assert not samples[0].has("gt_boxes")
    assert latest(storage) == {"roi_head/num_fg_samples": 1, "roi_head/num_bg_samples": 0.5}


def test_standard_heads_train():
    heads = standard_heads()
    with EventStorage() as storage:
        sampled, losses = heads(*batch())
    assert sorted(losses) == ["loss_box_reg", "loss_cls", "loss_mask"]
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in heads.parameters())
    assert len(sampled) == 2
    assert sampled[0].has("gt_masks")
    assert {"roi_head/num_fg_samples", "fast_rcnn/cls_accuracy", "mask_rcnn/accuracy"} <= set(latest(storage))
    assert not any(name.startswith("box_pooler") for name in heads.state_dict())
    assert [name for name, _ in heads.named_children()] == [
        "box_pooler",
        "box_head",
        "box_predictor",
        "mask_pooler",
        "mask_head",
    ]


def test_training_needs_targets():
    images, features, proposals, _ = batch()
    with pytest.raises(AssertionError):
        standard_heads()(images, features, proposals)


def test_standard_heads_detect_and_mask_given_boxes():
    heads = standard_heads(box_predictor=box_predictor(test_topk_per_image=3)).eval()
    images, features, proposals, _ = batch()
    with torch.no_grad():
        found, losses = heads(images, features, proposals)
        given = [Instances(SIZE, pred_boxes=x.pred_boxes, pred_classes=x.pred_classes) for x in found]
        again = heads.forward_with_given_boxes(features, given)
    assert losses == {}
    for x, y in zip(found, again, strict=True):
        assert len(x) == 3
        assert tuple(x.pred_masks.shape) == (3, 1, 8, 8)
        assert torch.equal(x.pred_masks, y.pred_masks)
    with pytest.raises(AssertionError):
        heads.forward_with_given_boxes(features, [Instances(SIZE, pred_boxes=found[0].pred_boxes)])
    with pytest.raises(AssertionError):
        heads.train().forward_with_given_boxes(features, given)


class PoolsForItself(BaseMaskRCNNHead):
    """Keeps what it is given."""

    def layers(self, x):
        self.seen = x
        return torch.zeros(sum(self.counts), K, 2, 2)

    def forward(self, x, instances):
        self.counts = [len(i) for i in instances]
        self.classes = [i.gt_classes.tolist() for i in instances] if self.training else None
        return super().forward(x, instances)


def test_without_a_pooler_the_mask_head_gets_the_feature_maps():
    head = PoolsForItself()
    heads = standard_heads(mask_pooler=None, mask_head=head)
    images, features, proposals, targets = batch()
    with EventStorage():
        heads(images, features, proposals, targets)
    assert list(head.seen) == ["p2"]
    assert head.seen["p2"] is features["p2"]
    # Only foreground reaches it: the true boxes, and the proposals that match them.
    assert [sorted(c) for c in head.classes] == [[0, 0, 2, 2], [1, 1]]
    found, _ = heads.eval()(images, features, proposals)
    assert found[0].pred_masks.eq(0.5).all()


def test_boxes_only():
    heads = standard_heads(mask_in_features=None, mask_pooler=None, mask_head=None)
    assert not heads.mask_on
    assert not hasattr(heads, "mask_head")
    with EventStorage():
        _, losses = heads(*batch())
    assert sorted(losses) == ["loss_box_reg", "loss_cls"]
    images, features, proposals, _ = batch()
    assert not heads.eval()(images, features, proposals)[0][0].has("pred_masks")


def test_mask_head_can_train_on_predicted_boxes():
    heads = standard_heads(train_on_pred_boxes=True)
    torch.nn.init.zeros_(heads.box_predictor.bbox_pred.weight)
    with torch.no_grad():
        heads.box_predictor.bbox_pred.bias.view(K, 4)[:, 0] = 1.0  # weight 10: a tenth of the width to the right
    images, features, proposals, targets = batch()
    with EventStorage():
        sampled, _ = heads(images, features, proposals, targets)
    widths = proposals[1].proposal_boxes.tensor[0, 2] - proposals[1].proposal_boxes.tensor[0, 0]
    starts = sampled[1].proposal_boxes.tensor[:, 0].tolist()
    assert any(abs(x - (5 + widths.item() / 10)) < 1e-4 for x in starts)
    assert not sampled[1].proposal_boxes.tensor.requires_grad


def c4_config():
    cfg = get_cfg()
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = K
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 4
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 4
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 2
    cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 1
    cfg.MODEL.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 4
    cfg.MODEL.MASK_ON = True
    return cfg


def test_res5_heads_share_their_features():
    heads = build_roi_heads(c4_config(), {"res4": ShapeSpec(channels=8, stride=16)})
    assert type(heads) is Res5ROIHeads
    assert tuple(heads.box_predictor.cls_score.weight.shape) == (K + 1, 16)
    assert "res5.0.shortcut.weight" in heads.state_dict()
    assert heads.res5[0].conv1.stride == (2, 2)
    images, _, proposals, targets = batch()
    features = {"res4": torch.randn(2, 8, 2, 2)}
    calls = []
    heads.res5.register_forward_hook(lambda module, args, out: calls.append(tuple(out.shape)))
    with EventStorage():
        returned, losses = heads(images, features, proposals, targets)
    assert returned == []
    assert sorted(losses) == ["loss_box_reg", "loss_cls", "loss_mask"]
    # One pass over all sampled regions: a quarter of four is foreground, and there are 2 + 1 of background.
    assert calls == [(5, 16, 2, 2)]
    found, _ = heads.eval()(images, features, proposals)
    assert tuple(found[0].pred_masks.shape) == (len(found[0]), 1, 4, 4)


def test_res5_takes_a_list_of_blocks():
    blocks = [torch.nn.Conv2d(CHANNELS, 8, 1), torch.nn.ReLU()]
    heads = Res5ROIHeads(in_features=["p2"], pooler=pooler(), res5=blocks, box_predictor=box_predictor(), **base_args())
    assert list(heads.state_dict())[:2] == ["res5.0.weight", "res5.0.bias"]
    images, features, proposals, _ = batch()
    assert len(heads.eval()(images, features, proposals)[0]) == 2


def fpn_config():
    cfg = get_cfg()
    cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2", "p3"]
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = K
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC = 1
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 8
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 3
    cfg.MODEL.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 4
    cfg.MODEL.MASK_ON = True
    return cfg


LEVELS = {"p2": ShapeSpec(channels=CHANNELS, stride=4), "p3": ShapeSpec(channels=CHANNELS, stride=8)}


def test_standard_heads_from_config():
    heads = build_roi_heads(fpn_config(), LEVELS)
    assert heads.box_in_features == heads.mask_in_features == ["p2", "p3"]
    assert heads.box_pooler.output_size == (3, 3)
    assert heads.mask_pooler.output_size == (14, 14)
    assert heads.box_head.fc1.in_features == CHANNELS * 9
    assert heads.batch_size_per_image == 512
    no_pooler = fpn_config()
    no_pooler.MODEL.MASK_ON = False
    assert not build_roi_heads(no_pooler, LEVELS).mask_on
    unequal = {"p2": ShapeSpec(channels=4, stride=4), "p3": ShapeSpec(channels=5, stride=8)}
    with pytest.raises(AssertionError):
        build_roi_heads(fpn_config(), unequal)


def test_subclass_may_build_its_heads_itself():
    class OwnHeads(StandardROIHeads):
        def __init__(self, cfg, input_shape):
            super().__init__(cfg, input_shape, **self._init_box_head(cfg, input_shape))

        def _init_box_head(self, cfg, input_shape):
            return dict(box_in_features=["p2"], box_pooler=pooler(), box_head=box_head(), box_predictor=box_predictor())

    heads = OwnHeads(fpn_config(), LEVELS)
    assert heads.box_in_features == ["p2"]
    assert heads.mask_in_features == ["p2", "p3"]


@pytest.mark.bundled_only
def test_keypoints_are_refused_by_name():
    cfg = fpn_config()
    cfg.MODEL.KEYPOINT_ON = True
    with pytest.raises(NotImplementedError, match="keypoints"):
        build_roi_heads(cfg, LEVELS)
    with pytest.raises(NotImplementedError, match="keypoints"):
        standard_heads(keypoint_in_features=["p2"])
    cfg.MODEL.ROI_HEADS.NAME = "RROIHeads"
    with pytest.raises(NotImplementedError, match="rotated"):
        build_roi_heads(cfg, LEVELS)


def test_box_head_layers_and_shapes():
    shape = ShapeSpec(channels=3, height=5, width=5)
    head = FastRCNNConvFCHead(shape, conv_dims=[4, 6], fc_dims=[7, 9], conv_norm="")
    assert [name for name, _ in head.named_children()] == [
        *("conv1", "conv2", "flatten", "fc1", "fc_relu1", "fc2", "fc_relu2"),
    ]
    x = torch.randn(2, 3, 5, 5)
    out = head(x)
    assert tuple(out.shape) == (2, 9)
    assert out.min() >= 0
    assert head.output_shape.channels == 9
    assert torch.equal(out, head.fc2(head.fc1(head.conv2(head.conv1(x)).flatten(1)).relu()).relu())
    convs = FastRCNNConvFCHead(shape, conv_dims=[4], fc_dims=[], conv_norm="BN")
    assert tuple(convs(x).shape) == (2, 4, 5, 5)
    assert (convs.output_shape.channels, convs.output_shape.height, convs.output_shape.width) == (4, 5, 5)
    assert convs.conv1.bias is None
    with pytest.raises(AssertionError):
        FastRCNNConvFCHead(shape, conv_dims=[], fc_dims=[])


def cascade_heads(**kwargs):
    args = dict(
        box_in_features=["p2"],
        box_pooler=pooler(),
        box_heads=[box_head() for _ in range(3)],
        box_predictors=[box_predictor(cls_agnostic_bbox_reg=True) for _ in range(3)],
        proposal_matchers=[matcher(t) for t in (0.5, 0.6, 0.7)],
    )
    rest = base_args()
    del rest["proposal_matcher"]
    return CascadeROIHeads(**{**args, **rest, **kwargs})


def test_cascade_trains_every_stage():
    torch.manual_seed(0)
    heads = cascade_heads()
    with EventStorage() as storage:
        _, losses = heads(*batch())
    assert sorted(losses) == sorted(f"{n}_stage{k}" for n in ("loss_cls", "loss_box_reg") for k in range(3))
    events = latest(storage)
    assert {"roi_head/num_fg_samples", "stage1/roi_head/num_fg_samples", "stage2/fast_rcnn/cls_accuracy"} <= set(events)
    assert events["stage1/roi_head/num_fg_samples"] + events["stage1/roi_head/num_bg_samples"] == pytest.approx(
        events["roi_head/num_fg_samples"] + events["roi_head/num_bg_samples"]
    )
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in heads.parameters())


def test_cascade_features_get_the_mean_gradient():
    x = torch.ones(2, requires_grad=True)
    y = _ScaleGradient.apply(x, 1 / 3)
    assert torch.equal(y, x)
    y.sum().backward()
    assert torch.allclose(x.grad, torch.full((2,), 1 / 3))


def test_cascade_inference_refines_boxes_and_averages_scores():
    heads = cascade_heads().eval()
    with torch.no_grad():
        for stage, layer in enumerate(heads.box_predictor):
            for p in layer.parameters():
                p.zero_()
            layer.bbox_pred.bias[0] = 1.0  # every stage moves the box by a tenth of its width
            layer.cls_score.bias[stage] = 50.0  # every stage is sure of another class
    images, features, _, _ = batch()
    found, _ = heads(images, features, [proposals_of([0, 0, 10, 10]), proposals_of()])
    assert torch.allclose(found[0].scores, torch.full((3,), 1 / 3))
    assert sorted(found[0].pred_classes.tolist()) == [0, 1, 2]
    assert torch.allclose(found[0].pred_boxes.tensor, torch.tensor([[3.0, 0, 13, 10]]).expand(3, -1))
    assert len(found[1]) == 0


def test_cascade_refuses_unequal_parts():
    with pytest.raises(AssertionError):
        cascade_heads(proposal_matchers=[matcher()])
    with pytest.raises(AssertionError):
        cascade_heads(box_predictors=[box_predictor()])
    with pytest.raises(AssertionError):
        cascade_heads(proposal_matcher=matcher())


def test_cascade_without_ground_truth():
    heads = cascade_heads()
    images, features, proposals, _ = batch()
    with EventStorage():
        _, losses = heads(images, features, proposals, [target_of([], []), target_of([], [])])
    assert all(torch.isfinite(value) for value in losses.values())
    assert losses["loss_box_reg_stage2"].item() == 0


def test_cascade_from_config():
    cfg = fpn_config()
    cfg.MODEL.ROI_HEADS.NAME = "CascadeROIHeads"
    with pytest.raises(AssertionError):
        build_roi_heads(cfg, LEVELS)
    cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = True
    heads = build_roi_heads(cfg, LEVELS)
    assert heads.num_cascade_stages == 3
    assert [p.box2box_transform.weights[0] for p in heads.box_predictor] == [10.0, 20.0, 30.0]
    assert {"box_head.2.fc1.weight", "box_predictor.0.bbox_pred.bias"} <= set(heads.state_dict())
