"""Painted points and their focal loss, against numbers by hand."""

import math

import pytest
import torch
from torch.nn import functional as F

from instseg_d2.layers.key_points import key_point_focal_loss, paint_points

ROWS, CELLS = torch.tensor([0, 2, 2]), torch.tensor([[1, 0], [3, 2], [2, 2]])  # columns and lines


def test_points_alone():
    maps = paint_points(ROWS, CELLS, (3, 4, 5), sigma=0)
    assert maps.shape == (3, 4, 5)
    assert maps.nonzero().tolist() == [[0, 0, 1], [2, 2, 2], [2, 2, 3]]


def test_gaussians_fall_off_and_the_highest_counts():
    maps = paint_points(ROWS, CELLS, (3, 4, 5), sigma=0.5)
    assert maps[0, 0, 1] == maps[2, 2, 3] == maps[2, 2, 2] == 1
    assert maps[0, 0, 2].item() == pytest.approx(math.exp(-2))
    assert maps[0, 1, 2].item() == pytest.approx(math.exp(-4))
    assert maps[2, 2, 4].item() == pytest.approx(math.exp(-2))  # of the nearer point
    assert maps[1].sum() == 0


@pytest.mark.parametrize("sigma", [0, 0.5])
def test_no_points_or_no_maps(sigma):
    nothing = torch.zeros(0, dtype=torch.int64), torch.zeros(0, 2, dtype=torch.int64)
    assert paint_points(*nothing, (2, 3, 3), sigma=sigma).sum() == 0
    assert paint_points(*nothing, (0, 3, 3), sigma=sigma).shape == (0, 3, 3)


def test_loss_by_hand_and_without_its_powers_the_cross_entropy():
    logits, targets = torch.tensor([0.0, 0.0, 0.0]), torch.tensor([1.0, 0.5, 0.0])
    half = math.log(2) / 4  # damped by (1/2)^2
    assert key_point_focal_loss(logits, targets).item() == pytest.approx(half + half / 16 + half)
    logits, targets = torch.randn(50, generator=torch.Generator().manual_seed(0)), (torch.arange(50) % 7 == 0).float()
    expected = F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
    assert torch.allclose(key_point_focal_loss(logits, targets, alpha=0, beta=0), expected)


def test_gradient():
    logits = torch.randn(12, generator=torch.Generator().manual_seed(0)).requires_grad_()
    targets = torch.tensor([1.0, 0.3, 0.0] * 4)
    key_point_focal_loss(logits, targets).backward()
    assert (logits.grad[::3] < 0).all()
    assert (logits.grad[2::3] > 0).all()
