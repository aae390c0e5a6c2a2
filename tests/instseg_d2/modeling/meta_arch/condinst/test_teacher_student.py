"""Two mask networks an instance: parameters of the paper, targets by hand, gradients, and the student alone at last."""

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage

from instseg_d2.checkpoint import CheckpointMismatchError
from instseg_d2.checkpoint.conversion import compare
from instseg_d2.checkpoint.teacher_student import drop_teacher
from instseg_d2.layers.box_maps import box_maps
from instseg_d2.layers.box_mask_losses import dice_loss
from instseg_d2.layers.dynamic_conv import DynamicLayers
from instseg_d2.layers.mean_field import DenseCRF
from instseg_d2.modeling.meta_arch.condinst.boxinst import BoxInstLoss
from instseg_d2.modeling.meta_arch.condinst.head import DynamicMaskHead
from instseg_d2.modeling.meta_arch.condinst.losses import MaskDiceLoss
from instseg_d2.modeling.meta_arch.condinst.model import CondInst
from instseg_d2.modeling.meta_arch.condinst.partial import PartialBoxInstLoss, seen_positives
from instseg_d2.modeling.meta_arch.condinst.teacher_student import (
    ClassMaskHead,
    _crop,
    _paste,
)
from instseg_d2.testing import add_tiny_student, fake_batch, tiny_condinst_config, without_objects

CLASSES = 3


def class_layers(*, static, in_channels=8, classes=CLASSES):
    settings = {"num_layers": 2, "out_channels": 8} if static else {"num_layers": 3, "out_channels": classes}
    return L(DynamicLayers)(in_channels=in_channels, channels=8, **settings)


def config(*, static=True, start=0, **rules):
    model = tiny_condinst_config(CLASSES)
    add_tiny_student(model, static=static, **rules)
    model.update(
        pseudo_start=start,
        supervision=L(PartialBoxInstLoss)(masks=L(MaskDiceLoss)(), boxes=L(BoxInstLoss)(bottom_pixels_removed=0)),
    )
    return model


def build(**settings):
    torch.manual_seed(0)
    model = instantiate(config(**settings))
    for controller in (model.detector.head.extra.teacher, model.detector.head.extra.student):
        torch.nn.init.normal_(controller.weight, std=0.3)
    return model


def hidden_batch(flags=((True, False), (False, False))):
    batch = fake_batch(num_classes=CLASSES)
    for item, flag in zip(batch, flags, strict=True):
        item["instances"].gt_has_mask = torch.tensor(flag)
    return batch


def step_of(model, batch, monkeypatch):
    """The losses of a training step, the step itself, and what the student saw."""
    seen = {}
    original = model.student_targets

    def spy(step, student, allowed):
        seen.update(step=step, student=student, seen=allowed, targets=original(step, student, allowed))
        return seen["targets"]

    monkeypatch.setattr(model, "student_targets", spy)
    with EventStorage():
        return model(batch), seen


def test_parameters_of_the_paper():
    assert instantiate(class_layers(static=True, in_channels=16)).num_parameters == 224
    assert instantiate(class_layers(static=False, in_channels=16, classes=80)).num_parameters == 944
    assert DynamicLayers(in_channels=16).num_parameters == 233


@pytest.mark.parametrize("static", [True, False])
def test_only_the_channel_of_the_class_is_drawn(static):
    torch.manual_seed(0)
    layers = instantiate(class_layers(static=static))
    head = ClassMaskHead(layers=layers, num_classes=CLASSES if static else None, level_sizes=[64], upsampling=1)
    if static:
        torch.nn.init.normal_(head.predictor.weight)
    x = Instances(
        (32, 32),
        extra=torch.randn(4, layers.num_parameters),
        locations=32 * torch.rand(4, 2),
        fpn_levels=torch.zeros(4, dtype=torch.int64),
        gt_classes=torch.tensor([0, 2, 1, 2]),
    )
    maps = head(torch.ones(1, 8, 4, 4), [x], 8)
    for row, chosen in enumerate(x.gt_classes.tolist()):
        # The network of this class alone, as CondInst would have it.
        weights, biases = layers.split(x.extra[row : row + 1])
        if static:
            weights, biases = [*weights, head.predictor.weight[None]], [*biases, head.predictor.bias[None]]
        weights[-1], biases[-1] = weights[-1][:, chosen : chosen + 1], biases[-1][:, chosen : chosen + 1]
        one = x[row : row + 1]
        one.extra = torch.cat([part.flatten(1) for part in (*weights, *biases)], dim=1)
        alone = DynamicMaskHead(layers=DynamicLayers(in_channels=8), level_sizes=[64], upsampling=1)
        torch.testing.assert_close(maps[row], alone(torch.ones(1, 8, 4, 4), [one], 8)[0])


def test_all_classes_start_with_the_same_masks():
    layers = instantiate(class_layers(static=True))
    head = ClassMaskHead(layers=layers, num_classes=CLASSES, level_sizes=[64], upsampling=1)
    row, *others = head.predictor.weight
    assert row.std() > 0.1
    assert all(torch.equal(row, other) for other in others)


@pytest.mark.parametrize("static", [True, False])
def test_losses_targets_and_rules(static, monkeypatch):
    model = build(static=static, method="threshold")
    losses, seen = step_of(model, hidden_batch(), monkeypatch)
    step, allowed = seen["step"], seen["seen"]
    assert set(losses) >= {"loss_mask", "loss_prj", "loss_pairwise", "loss_student"}
    torch.testing.assert_close(losses["loss_mask"], model.supervision.masks(step)["loss_mask"])
    torch.testing.assert_close(losses["loss_student"], dice_loss(seen["student"].sigmoid(), seen["targets"]).mean())
    assert 0 < allowed.sum() < len(allowed)
    size = tuple(step.logits.shape[1:])
    boxes = torch.cat([x.gt_boxes.tensor for x in step.truth])
    inside = box_maps(boxes, size, step.stride)[step.gt_inds]
    # Masks of the data are filled boxes: those of the seen objects, the first of the first image, are its own.
    assert torch.equal(seen["targets"][allowed].bool(), inside[allowed])
    covered = torch.zeros_like(inside)
    covered[step.image_inds == 0] = box_maps(boxes[:1], size, step.stride)
    expected = (step.logits >= 0) & inside & ~covered
    assert torch.equal(seen["targets"][~allowed].bool(), expected[~allowed])
    assert expected[~allowed].any()
    assert not expected[~allowed].equal(inside[~allowed])


def test_teacher_and_student_learn_apart(monkeypatch):
    model = build()
    losses, _ = step_of(model, hidden_batch(), monkeypatch)
    pair = model.detector.head.extra
    losses["loss_student"].backward(retain_graph=True)
    assert pair.teacher.weight.grad is None or not pair.teacher.weight.grad.any()
    assert pair.student.weight.grad.any()
    assert model.mask_head.predictor.weight.grad.flatten(1).any(dim=1).sum() > 1
    model.zero_grad()
    (losses["loss_mask"] + losses["loss_prj"] + losses["loss_pairwise"]).backward()
    assert pair.teacher.weight.grad.any()
    assert not pair.student.weight.grad.any()


@pytest.mark.parametrize("start", [0, 1])
def test_warm_up(start, monkeypatch):
    losses, _ = step_of(build(start=start), hidden_batch(((False, False), (False, False))), monkeypatch)
    assert losses["loss_mask"] == 0
    assert losses["loss_prj"] > 0
    assert (losses["loss_student"] > 0) == (start == 0)


CRF = {"method": "crf", "crf": L(DenseCRF)(color_sigma=30.0, iterations=2)}


@pytest.mark.parametrize("rules", [{}, CRF], ids=["", "crf"])
@pytest.mark.parametrize("objects", [True, False])
def test_every_parameter_learns(objects, rules, monkeypatch):
    batch = hidden_batch() if objects else without_objects(fake_batch(num_classes=CLASSES))
    model = build(**rules)
    losses, seen = step_of(model, batch, monkeypatch)
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert len(seen["targets"]) == len(seen_positives(seen["step"]))


def test_crops_come_back_to_their_place():
    maps = torch.zeros(1, 16, 24)
    maps[0, 4:12, 6:18] = 1
    boxes = torch.tensor([[16.0, 8.0, 80.0, 56.0]])  # in pixels, stride 4: columns 4 to 19, rows 2 to 13
    crops = _crop(maps[:, None], boxes, torch.zeros(1, dtype=torch.int64), 4)[:, 0]
    pasted = _paste(crops, boxes, (16, 24), 4)
    assert torch.equal(pasted >= 0.5, maps >= 0.5)
    assert not pasted[:, :2].any()
    assert not pasted[:, :, 20:].any()


def test_the_student_goes_on_without_its_teacher():
    model = build().eval()
    batch = [{"image": item["image"]} for item in fake_batch(num_classes=CLASSES)]
    model.detector.test_score_thresh = 0.0
    plain = config()
    teacher = plain.pop("teacher_head")
    for name in ("pseudo_masks", "pseudo_start"):
        plain.pop(name)
    plain.update(_target_=CondInst, supervision=L(MaskDiceLoss)())
    plain.detector.head.extra = plain.detector.head.extra.student
    alone = instantiate(plain).eval()
    alone.detector.test_score_thresh = 0.0
    state = drop_teacher(model.state_dict())
    assert not any("teacher" in name for name in state)
    assert not compare(state, alone)
    alone.load_state_dict(state)
    with torch.no_grad():
        pairs = list(zip(model(batch), alone(batch), strict=True))
    for ours, theirs in pairs:
        assert len(ours["instances"]) > 0
        assert torch.equal(ours["instances"].pred_masks, theirs["instances"].pred_masks)
    assert teacher is not None
    with pytest.raises(CheckpointMismatchError, match="no student"):
        drop_teacher(alone.state_dict())
