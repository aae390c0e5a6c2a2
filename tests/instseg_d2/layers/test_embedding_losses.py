import math

import pytest
import torch

from instseg_d2.layers.embedding_losses import cosine_loss, multi_positive_loss


def slow_multi_positive(similarity, same):
    """The formula as printed, pair by pair."""
    rows = []
    for scores, flags in zip(similarity.tolist(), same.tolist(), strict=True):
        positives = [s for s, flag in zip(scores, flags, strict=True) if flag]
        negatives = [s for s, flag in zip(scores, flags, strict=True) if not flag]
        if positives:
            rows.append(math.log(1 + sum(math.exp(n - p) for p in positives for n in negatives)))
    return sum(rows) / len(rows)


def slow_cosine(cosine, same, margin, ratio):
    positives, negatives = [], []
    for cosines, flags in zip(cosine.tolist(), same.tolist(), strict=True):
        for value, flag in zip(cosines, flags, strict=True):
            seen = min(max(value - (0 if flag else margin), 0), 1)
            (positives if flag else negatives).append((seen - flag) ** 2)
    negatives = sorted(negatives, reverse=True)[: ratio * len(positives)]
    return sum(positives + negatives) / len(positives + negatives)


@pytest.mark.parametrize("seed", range(5))
def test_both_equal_the_slow_formulas(seed):
    torch.manual_seed(seed)
    same = torch.randint(0, 4, (6, 1)) == torch.randint(-1, 4, (11,))
    similarity = torch.randn(6, 11, dtype=torch.float64) * 3
    cosine = torch.rand(6, 11, dtype=torch.float64) * 2 - 1
    assert multi_positive_loss(similarity, same).item() == pytest.approx(slow_multi_positive(similarity, same))
    assert cosine_loss(cosine, same).item() == pytest.approx(slow_cosine(cosine, same, 0.3, 3))
    tight = cosine_loss(cosine, same, negative_margin=0.1, negatives_per_positive=1)
    assert tight.item() == pytest.approx(slow_cosine(cosine, same, 0.1, 1))


def test_values_by_hand():
    same = torch.tensor([[True, False], [False, False]])
    # The second row has no positive and does not count.
    loss = multi_positive_loss(torch.tensor([[2.0, 1.0], [5.0, 5.0]]), same)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-1)))
    # 1 - 0.4, then 0.8, 0.5 and 0.2 above a margin of 0.3.
    cosine = torch.tensor([[0.4, 0.8], [0.5, 0.2]])
    assert cosine_loss(cosine, same).item() == pytest.approx((0.6**2 + 0.5**2 + 0.2**2 + 0) / 4)
    one = cosine_loss(cosine, same, negatives_per_positive=1)
    assert one.item() == pytest.approx((0.6**2 + 0.5**2) / 2)


@pytest.mark.parametrize(
    "same",
    [torch.zeros(2, 3, dtype=torch.bool), torch.zeros(0, 3, dtype=torch.bool), torch.zeros(2, 0, dtype=torch.bool)],
    ids=["no positive", "no row", "no column"],
)
def test_without_positives_both_are_zeros_that_keep_the_graph(same):
    similarity = torch.randn(same.shape, requires_grad=True)
    loss = multi_positive_loss(similarity, same) + cosine_loss(similarity.tanh(), same)
    assert loss.item() == 0
    (gradient,) = torch.autograd.grad(loss, similarity)
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_a_row_of_positives_alone_costs_nothing():
    similarity = torch.randn(1, 3, requires_grad=True)
    loss = multi_positive_loss(similarity, torch.ones(1, 3, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(similarity.grad, torch.zeros(1, 3))


def test_large_products_stay_finite():
    similarity = torch.tensor([[-300.0, 300.0]], requires_grad=True)
    loss = multi_positive_loss(similarity, torch.tensor([[True, False]]))
    loss.backward()
    assert loss.item() == pytest.approx(600)
    assert similarity.grad.tolist() == [[-1, 1]]


def test_gradients():
    torch.manual_seed(0)
    same = torch.tensor([[True, False, False, True], [False, True, False, False], [False] * 4])
    similarity = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: multi_positive_loss(x, same), similarity)
    cosine = (torch.rand(3, 4, dtype=torch.float64) * 0.6 + 0.35).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: cosine_loss(x, same), cosine)
