"""ATMask R-CNN's head: shapes of the paper, the binarisation's properties, and losses at known inputs."""

import math

import pytest
import torch
from detectron2.modeling.poolers import ROIPooler
from detectron2.utils.events import EventStorage
from torch.nn import functional as F

from instseg_d2.modeling.mask_heads.atmask import ATMaskHead, binarization_logits
from instseg_d2.testing import fake_instances

LEVELS = {"p2": 1 / 4, "p3": 1 / 8}
LOSSES = {"loss_mask", "loss_threshold", "loss_binary"}


def pooler(size, *names):
    return ROIPooler(size, [LEVELS[name] for name in names], sampling_ratio=0, pooler_type="ROIAlignV2")


def head(**settings):
    torch.manual_seed(0)
    defaults = {
        "in_channels": 8,
        "num_classes": 3,
        "in_features": ["p2", "p3"],
        "pooler": pooler(14, "p2", "p3"),
        "threshold_in_features": ["p2"],
        "threshold_pooler": pooler(28, "p2"),
        "conv_dim": 6,
    }
    module = ATMaskHead(**{**defaults, **settings})
    for predictor in (module.predictor, module.threshold_predictor):
        torch.nn.init.normal_(predictor.weight)
    return module


def features():
    torch.manual_seed(1)
    return {name: torch.randn(2, 8, int(64 * scale), int(64 * scale)) for name, scale in LEVELS.items()}


def regions():
    images = [
        fake_instances(64, 64, [[4, 4, 40, 44], [10, 8, 60, 60]], [0, 2]),
        fake_instances(64, 64, [[0, 0, 30, 24]]),
    ]
    for x in images:
        x.proposal_boxes = x.pred_boxes = x.gt_boxes
        x.pred_classes = x.gt_classes
    return images


def losses_of(module, instances):
    with EventStorage():
        return module(features(), instances)


@pytest.mark.parametrize("num_classes", [3, 1])
def test_both_branches_meet_at_14_and_leave_at_28(num_classes):
    module, seen = head(num_classes=num_classes), {}
    for name in ("convs", "halving"):
        module.get_submodule(name).register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: out.shape}))
    last, logits = module.layers(features(), regions())
    assert seen == {"convs": (3, 6, 14, 14), "halving": (3, 8, 14, 14)}
    assert last.shape == (3, 6, 28, 28)
    assert {name: tuple(maps.shape) for name, maps in logits.items()} == {
        "masks": (3, num_classes, 28, 28),
        "thresholds": (3, num_classes, 28, 28),
    }


def test_sizes_of_the_paper():
    settings = {"in_channels": 256, "conv_dim": 256, "num_classes": 80}
    with torch.device("meta"):
        module = ATMaskHead(
            in_features=["p2", "p3"],
            pooler=pooler(14, "p2", "p3"),
            threshold_in_features=["p2"],
            threshold_pooler=pooler(28, "p2"),
            **settings,
        )
    conv, wide, deconv, predictor = 590_080, 2 * 589_824 + 256, 262_400, 80 * 257
    # Mask R-CNN's head, the same outputs again, the halving and one more convolution, and two that take 512 channels.
    expected = (4 * conv + deconv + predictor) + (deconv + predictor) + 2 * conv + 2 * wide
    assert sum(parameter.numel() for parameter in module.parameters()) == expected


@pytest.mark.parametrize("steepness", [1, 2, 5])
def test_binary_above_one_half_wherever_probability_reaches_threshold(steepness):
    torch.manual_seed(0)
    probability, threshold = torch.rand(2, 5, 28, 28)
    binary = binarization_logits(probability, threshold, steepness).sigmoid()
    assert torch.equal(binary >= 0.5, probability >= threshold)


@pytest.mark.parametrize(("steepness", "floor"), [(1, 0.313), (2, 0.127)])
def test_floor_of_the_binary_loss_at_a_perfect_fit(steepness, floor):
    mask = (torch.rand(4, 28, 28) > 0.5).float()
    logits = binarization_logits(mask, 1 - mask, steepness)
    loss = F.binary_cross_entropy_with_logits(logits, mask)
    assert loss.item() == pytest.approx(math.log1p(math.exp(-steepness)), rel=1e-6)
    assert loss.item() == pytest.approx(floor, abs=5e-4)


def test_gradient_of_the_binarisation_is_at_most_a_quarter_of_k():
    probability = torch.linspace(0, 1, 101, requires_grad=True)
    binarization_logits(probability, torch.full((101,), 0.5), 2.0).sigmoid().sum().backward()
    assert probability.grad.max().item() == pytest.approx(0.5)
    assert probability.grad.argmax() == 50


@pytest.mark.parametrize("target", ["background", "mask"])
@pytest.mark.parametrize("shared", [False, True])
def test_losses_are_those_of_the_definition(target, shared):
    module, instances = head(threshold_target=target, shared_threshold=shared), regions()
    losses = losses_of(module, instances)
    _, logits = module.layers(features(), instances)
    rows, classes = torch.arange(3), torch.tensor([0, 2, 0])
    mask_logits = logits["masks"][rows, classes]
    thresholds = logits["thresholds"][rows, torch.zeros_like(classes) if shared else classes]
    masks = torch.cat([x.gt_masks.crop_and_resize(x.proposal_boxes.tensor, 28) for x in instances]).float()
    bce = F.binary_cross_entropy_with_logits
    binary = 1 / (1 + torch.exp(-2 * (mask_logits.sigmoid() - thresholds.sigmoid())))
    expected = {
        "loss_mask": bce(mask_logits, masks),
        "loss_threshold": bce(thresholds, 1 - masks if target == "background" else masks),
        "loss_binary": 2 * F.binary_cross_entropy(binary, masks),
    }
    assert set(losses) == LOSSES
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value.item(), rel=1e-5), name


VARIANTS = {
    "branch alone": {"probability_to_threshold": False, "threshold_to_probability": False},
    "to threshold": {"threshold_to_probability": False},
    "reduced": {"reduce_first": True},
    "pooled as the masks": {"threshold_in_features": ["p2", "p3"], "threshold_pooler": pooler(14, "p2", "p3")},
    "shared": {"shared_threshold": True},
    "deep": {"num_threshold_convs": 3, "num_convs": 2},
}


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS)
def test_every_variant_trains_every_parameter_with_and_without_regions(settings):
    for instances in (regions(), [x[:0] for x in regions()]):
        module = head(**settings)
        losses = losses_of(module, instances)
        assert set(losses) == LOSSES
        sum(losses.values()).backward()
        missing = [name for name, parameter in module.named_parameters() if parameter.grad is None]
        assert not missing
        assert all(torch.isfinite(parameter.grad).all() for parameter in module.parameters())


def test_hidden_masks_count_in_no_loss():
    module, instances = head(), regions()
    instances[0].gt_has_mask, instances[1].gt_has_mask = torch.tensor([True, True]), torch.tensor([False])
    seen = losses_of(module, instances)
    alone = losses_of(module, [regions()[0], regions()[1][:0]])
    for name in LOSSES:
        assert seen[name].item() == pytest.approx(alone[name].item(), rel=1e-5), name


def test_inference_by_binary_map_or_by_probability():
    binary, plain = head(keep_aux=True).eval(), head(result="probability").eval()
    by_binary = [(x.pred_masks, x.pred_probabilities, x.pred_thresholds) for x in binary(features(), regions())]
    by_probability = [x.pred_masks for x in plain(features(), regions())]
    for (masks, probabilities, thresholds), reference in zip(by_binary, by_probability, strict=True):
        assert masks.shape[1:] == (1, 28, 28)
        assert torch.equal(probabilities, reference)
        assert torch.equal(masks >= 0.5, probabilities >= thresholds)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"result": "threshold"}, "must be one of"),
        ({"threshold_target": "none"}, "must be one of"),
        ({"threshold_pooler": pooler(21, "p2")}, "once or twice"),
    ],
)
def test_unknown_settings(wrong, message):
    with pytest.raises(ValueError, match=message):
        head(**wrong)
