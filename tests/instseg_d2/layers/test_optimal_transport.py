"""Sinkhorn's plan: by hand, against the plain exponentials, and where those overflow."""

import math

import pytest
import torch

from instseg_d2.layers.optimal_transport import sinkhorn


def scores(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_one_iteration_by_hand():
    """exp gives [[1, 1], [1, 3]]. Rows to one half: [[1/4, 1/4], [1/8, 3/8]]; then columns to one half."""
    plan = sinkhorn(torch.tensor([[0.0, 0.0], [0.0, math.log(3)]]), epsilon=1.0, iterations=1)
    assert torch.allclose(plan, torch.tensor([[1 / 3, 1 / 5], [1 / 6, 3 / 10]]))


def test_fixed_point_by_hand():
    """Rows and columns of one half leave one unknown; its odds ratio stays 3, so p^2 / (1/2 - p)^2 = 3."""
    plan = sinkhorn(torch.tensor([[0.0, 0.0], [0.0, math.log(3)]]), epsilon=1.0, iterations=50)
    p = math.sqrt(3) / (1 + math.sqrt(3)) / 2
    assert torch.allclose(plan, torch.tensor([[p, 0.5 - p], [0.5 - p, p]]), atol=1e-6)


def test_all_would_rather_go_to_one_place_and_are_shared_out():
    plan = sinkhorn(torch.tensor([[1.0, 0.9, 0.5, 0.4], [0.0, 0.0, 0.0, 0.0]]), iterations=200)
    assert plan.argmax(dim=0).tolist() == [0, 0, 1, 1]
    assert torch.allclose(plan.sum(dim=1), torch.full((2,), 0.5), atol=1e-3)


def test_is_what_plain_exponentials_give():
    values = scores(3, 5, 40).double() / 3
    plan = (values / 0.3).exp()
    for _ in range(3):
        plan = plan / plan.sum(dim=2, keepdim=True) / 5
        plan = plan / plan.sum(dim=1, keepdim=True) / 40
    assert torch.allclose(sinkhorn(values, epsilon=0.3), plan, atol=1e-12)


def test_columns_are_exact_and_rows_in_the_limit():
    plan = sinkhorn(scores(4, 30), epsilon=0.5, iterations=1)
    assert torch.allclose(plan.sum(dim=0), torch.full((30,), 1 / 30))
    assert (plan.sum(dim=1) - 0.25).abs().max() > 1e-2
    plan = sinkhorn(scores(4, 30), epsilon=0.5, iterations=100)
    assert torch.allclose(plan.sum(dim=1), torch.full((4,), 0.25), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_neither_short_floats_nor_autocast_overflow(dtype):
    values = (30 * scores(10, 200)).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        plan = sinkhorn(values)
    assert plan.dtype == torch.float32
    assert plan.isfinite().all()
    assert torch.equal(plan, sinkhorn(values.float()))


def test_no_items():
    assert sinkhorn(torch.zeros(3, 0)).shape == (3, 0)
