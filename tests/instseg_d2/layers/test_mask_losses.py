import math

import pytest
import torch

from instseg_d2.layers.mask_losses import dice_losses, mask_bce, mask_error_rates, pick_channel


def test_bce_of_one_pixel_is_minus_log_of_its_probability():
    logit = torch.tensor([math.log(3.0)])  # probability 3/4
    assert mask_bce(logit, torch.tensor([1.0])).item() == pytest.approx(-math.log(0.75))
    assert mask_bce(logit, torch.tensor([0.0])).item() == pytest.approx(-math.log(0.25))


def test_bce_gradient_is_probability_minus_target_over_count():
    logits = torch.tensor([[0.0, math.log(3.0)]], requires_grad=True)
    mask_bce(logits, torch.tensor([[1.0, 0.0]])).backward()
    assert torch.allclose(logits.grad, torch.tensor([[-0.25, 0.375]]))


def test_bce_in_half_precision_is_computed_in_float32():
    logits = torch.full((4, 100, 100), 8.0, dtype=torch.bfloat16)
    loss = mask_bce(logits, torch.ones_like(logits))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(math.log1p(math.exp(-8.0)), rel=1e-5)


def test_bce_of_nothing_is_a_zero_with_graph():
    logits = torch.zeros(0, 4, 4, dtype=torch.float16, requires_grad=True)
    loss = mask_bce(logits, torch.zeros(0, 4, 4))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None


def test_pick_channel_takes_the_own_class_or_the_only_one():
    maps = torch.arange(12.0).view(2, 3, 1, 2)
    assert pick_channel(maps, torch.tensor([2, 0])).tolist() == [[[4.0, 5.0]], [[6.0, 7.0]]]
    assert pick_channel(maps[:, :1], torch.tensor([2, 0])).tolist() == [[[0.0, 1.0]], [[6.0, 7.0]]]


def test_error_rates_counted_by_hand():
    # Four of ten pixels are foreground, one of them missed; two of six background pixels are called foreground.
    targets = torch.tensor([1.0] * 4 + [0.0] * 6)
    logits = torch.tensor([1.0, 1, 1, -1, 1, 1, -1, -1, -1, -1])
    rates = mask_error_rates(logits, targets)
    assert rates == pytest.approx({"accuracy": 0.7, "false_positive": 2 / 6, "false_negative": 1 / 4})
    assert mask_error_rates(targets[:0], targets[:0]) == {"accuracy": 1, "false_positive": 0, "false_negative": 0}


def test_dice_counted_by_hand():
    # Probabilities 1/2 and 3/4 against 1 and 0: 1 - 2 (1/2) / (1/4 + 9/16 + 1).
    logits = torch.tensor([[0.0, math.log(3.0)]])
    targets = torch.tensor([[True, False]])
    assert dice_losses(logits, targets, epsilon=0).tolist() == pytest.approx([1 - 16 / 29])
    # The loss of SOLOv2's code, with its two summands of 0.001.
    assert dice_losses(logits, targets, epsilon=0.002).tolist() == pytest.approx([1 - 1 / (1.8125 + 0.002)])


def test_dice_of_a_perfect_an_opposite_and_an_empty_mask():
    targets = torch.zeros(3, 2, 4, 4)
    targets[:2, 0] = 1
    logits = torch.where(targets > 0, 50.0, -50.0)
    logits[1] *= -1
    assert dice_losses(logits, targets, epsilon=1e-5).tolist() == pytest.approx([0, 1, 1], abs=1e-6)


def test_dice_gradient():
    logits = torch.randn(3, 2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    targets = torch.rand(3, 2, 5, generator=torch.Generator().manual_seed(1)) < 0.5
    assert torch.autograd.gradcheck(lambda x: dice_losses(x, targets, epsilon=0.002), (logits,))


def test_dice_of_half_precision_is_computed_in_float32_and_of_nothing_keeps_the_graph():
    logits = torch.zeros(1, 500, 500, dtype=torch.bfloat16)
    loss = dice_losses(logits, torch.ones(1, 500, 500), epsilon=0.002)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(1 - 0.5 * 2 / 1.25)
    nothing = torch.zeros(0, 4, 4, requires_grad=True)
    dice_losses(nothing, torch.zeros(0, 4, 4), epsilon=0.002).sum().backward()
    assert nothing.grad.shape == (0, 4, 4)
