"""Losses of masks that hold at some pixels: by hand, gradients, nothing to learn."""

import math

import pytest
import torch

from instseg_d2.modeling.meta_arch.sim.losses import BCEDiceLoss, FocalMaskLoss

LOSSES = pytest.mark.parametrize(
    "loss", [BCEDiceLoss(), FocalMaskLoss(), FocalMaskLoss(dice_weight=1.0, twice_sigmoid=True)], ids=["bce", "f", "fd"]
)
# Probabilities 0.8 and 0.2.
HIGH, LOW = math.log(4), -math.log(4)


def test_bce_and_dice_by_hand():
    """Two positives: the first counts at two pixels, right at one and wrong at the other; the second at one, right."""
    logits = torch.tensor([[[HIGH, HIGH, LOW]], [[LOW, LOW, LOW]]])
    targets = torch.tensor([[[1, 0, 1]], [[0, 1, 1]]]).bool()
    valid = torch.tensor([[[1, 1, 0]], [[1, 0, 0]]]).bool()
    bce = [(-math.log(0.8) - math.log(0.2)) / 2, -math.log(0.8)]
    dice = [1 - 2 * 0.8 / (2 * 0.64 + 1), 1.0]
    assert BCEDiceLoss()(logits, targets, valid).item() == pytest.approx((sum(bce) + sum(dice)) / 2, rel=1e-4)
    loss = BCEDiceLoss(bce_weight=2.0, dice_weight=0.0)(logits, targets, valid)
    assert loss.item() == pytest.approx(sum(bce), rel=1e-4)


def test_positives_that_count_nowhere_change_nothing():
    logits, targets = torch.randn(3, 4, 4), torch.rand(3, 4, 4) > 0.5
    valid = torch.tensor([True, False, True])[:, None, None]
    whole = torch.ones(2, 4, 4, dtype=torch.bool)
    expected = BCEDiceLoss()(logits[[0, 2]], targets[[0, 2]], whole)
    assert BCEDiceLoss()(logits, targets, valid).item() == pytest.approx(expected.item(), rel=1e-5)


def test_focal_by_hand():
    """Foreground at probability 0.2, background at 0.8: 1 - p_t is 0.8 at both; sums over valid pixels plus 1."""
    logits = torch.tensor([[[LOW, HIGH, LOW]]])
    targets, valid = torch.tensor([[[1, 0, 0]]]).bool(), torch.tensor([[[1, 1, 0]]]).bool()
    expected = (0.25 + 0.75) * 0.64 * -math.log(0.2) / 3
    assert FocalMaskLoss()(logits, targets, valid).item() == pytest.approx(expected, rel=1e-5)
    # The second sigmoid makes 0.55 of 0.2, and 0.69 of 0.8.
    foreground, background = -math.log(1 / (1 + math.exp(-0.2))), -math.log(1 - 1 / (1 + math.exp(-0.8)))
    expected = 0.64 * (0.25 * foreground + 0.75 * background) / 3
    twice = FocalMaskLoss(twice_sigmoid=True)(logits, targets, valid)
    assert twice.item() == pytest.approx(expected, rel=1e-5)
    # A second positive that counts nowhere has a dice loss of 1.
    pair = [x.expand(2, 1, 3) for x in (logits, targets)]
    both = FocalMaskLoss(twice_sigmoid=True, dice_weight=3.0)(*pair, torch.stack([valid[0], ~valid[0] & False]))
    dice = 1 - 2 * 0.2 / (0.04 + 0.64 + 1)
    assert both.item() == pytest.approx(expected + 3 * (dice + 1) / 2, rel=1e-4)


@LOSSES
def test_gradients(loss):
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 3, generator=rng, dtype=torch.float64, requires_grad=True)
    targets, valid = (torch.rand(2, 3, 3, generator=rng) > 0.4 for _ in range(2))
    assert torch.autograd.gradcheck(lambda x: loss(x, targets, valid), logits)
    (gradient,) = torch.autograd.grad(loss(logits, targets, valid), logits)
    assert (gradient[~valid] == 0).all()


@LOSSES
@pytest.mark.parametrize("positives", [0, 2])
def test_nothing_to_learn_is_a_zero_with_a_graph(loss, positives):
    logits = torch.randn(positives, 3, 3, requires_grad=True)
    value = loss(logits, torch.zeros(positives, 3, 3).bool(), torch.zeros(positives, 1, 1).bool())
    value.backward()
    assert value.item() == (loss.dice_weight if positives and isinstance(loss, FocalMaskLoss) else 0)
    assert logits.grad.abs().sum() == 0
