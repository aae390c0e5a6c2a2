"""Focal loss of labels: binary cross entropy as a special case, hand-computed values, background, half precision."""

import math

import pytest
import torch
from torch.nn import functional as F

from instseg_d2.layers.focal_loss import focal_loss_of_labels


def test_without_focus_and_weights_it_is_cross_entropy_in_value_and_gradient():
    logits = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.tensor([[0, 1, 2, 3, 3], [3, 3, 1, 0, 0]])
    loss = focal_loss_of_labels(logits, labels, alpha=-1, gamma=0)
    expected = F.binary_cross_entropy_with_logits(logits, F.one_hot(labels, 4)[..., :3].float(), reduction="sum")
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(
        torch.autograd.grad(loss, logits, retain_graph=True), torch.autograd.grad(expected, logits)
    )


@pytest.mark.parametrize(("label", "positives"), [(1, 1), (2, 0)])
def test_value_by_hand(label, positives):
    """At logit 0 each term is weight * 0.5^2 * ln 2, with weight 0.25 (positive) or 0.75 (negative)."""
    loss = focal_loss_of_labels(torch.zeros(1, 2), torch.tensor([label]), alpha=0.25, gamma=2.0)
    assert loss.item() == pytest.approx((0.25 * positives + 0.75 * (2 - positives)) * 0.25 * math.log(2))


def test_half_precision_is_summed_in_float32():
    logits = torch.zeros(4000, 3, dtype=torch.bfloat16)
    loss = focal_loss_of_labels(logits, torch.full((4000,), 3), alpha=0.25, gamma=2.0)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(12000 * 0.75 * 0.25 * math.log(2), rel=1e-4)


def test_no_items_give_zero_that_keeps_the_graph():
    logits = torch.zeros(0, 3, requires_grad=True)
    loss = focal_loss_of_labels(logits, torch.zeros(0, dtype=torch.int64), alpha=0.25, gamma=2.0)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.shape == (0, 3)
