"""Dice, projection and pairwise losses: by hand, against the formulas written out, gradients, memory."""

import math

import pytest
import torch
from torch.nn import functional as F

from instseg_d2.benchmark.memory import peak_tensor_memory
from instseg_d2.layers.box_mask_losses import dice_loss, pairwise_loss, projection_loss


def test_dice_by_hand():
    """1 - 2 * 0.5 / (0.25 + 0.25 + 1) = 1/3; an exact mask has none; without foreground nothing can be gained."""
    p = torch.tensor([[0.5, 0.5], [1.0, 0.0], [0.7, 0.2]], requires_grad=True)
    targets = torch.tensor([[True, False], [True, False], [False, False]])
    losses = dice_loss(p, targets)
    assert losses.tolist() == pytest.approx([1 / 3, 0, 1], abs=1e-5)
    losses.sum().backward()
    assert p.grad[0].abs().sum() > 0
    assert p.grad[2].tolist() == [0, 0]


def test_projection_by_hand():
    """Maxima of rows (0.8, 0.1) and columns (0.8, 0.6) against (1, 0) and (1, 1)."""
    p = torch.tensor([[[0.8, 0.6], [0.1, 0.0]]], dtype=torch.float64, requires_grad=True)
    boxes = torch.tensor([[[True, True], [False, False]]])
    rows = 1 - 2 * 0.8 / (0.65 + 1)
    columns = 1 - 2 * 1.4 / (1.0 + 2)
    loss = projection_loss(p, boxes)
    assert loss.item() == pytest.approx(rows + columns, abs=1e-4)
    loss.sum().backward()
    assert p.grad[0, 1, 1] == 0
    assert (p.grad[0, 0] < 0).all()
    assert p.grad[0, 1, 0] > 0


def test_projection_sees_the_box_alone():
    """A mask with the maxima of its box, however little of the box it fills, is perfect."""
    mask = torch.eye(4)[None]
    assert projection_loss(mask, torch.ones(1, 4, 4)).item() == pytest.approx(0, abs=1e-5)


def direct(logits, edges, regions, images, size=3, dilation=2):
    """The formula written out, with all neighbors of all pixels at once."""
    count = size * size

    def unfold(x):
        x = F.unfold(x[:, None], size, padding=dilation * (size // 2), dilation=dilation)
        return x.unflatten(2, logits.shape[1:])[:, [i for i in range(count) if i != count // 2]]

    ones, zeros = F.logsigmoid(logits), F.logsigmoid(-logits)
    same_ones, same_zeros = ones[:, None] + unfold(ones), zeros[:, None] + unfold(zeros)
    highest = torch.maximum(same_ones, same_zeros)
    losses = -(torch.log(torch.exp(same_ones - highest) + torch.exp(same_zeros - highest)) + highest)
    weights = edges[images].to(logits) * regions[:, None].to(logits)
    return (losses * weights).sum() / weights.sum().clamp(min=1)


def example(instances=5, height=9, width=11, images=2, neighbors=8, dtype=torch.float64, dilation=2):
    rng = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(instances, height, width, generator=rng, dtype=dtype)
    edges = torch.rand(images, neighbors, height, width, generator=rng) > 0.5
    side = math.isqrt(neighbors + 1)
    # Neighbors beyond the border are similar to nothing.
    inside = F.unfold(torch.ones(1, 1, height, width), side, padding=dilation * (side // 2), dilation=dilation)
    inside = inside.unflatten(2, (height, width))[:, [i for i in range(neighbors + 1) if i != neighbors // 2]]
    regions = torch.rand(instances, height, width, generator=rng) > 0.4
    return logits, edges & inside.bool(), regions, torch.arange(instances) * images // max(instances, 1)


@pytest.mark.parametrize(("size", "dilation"), [(3, 2), (3, 1), (5, 2)])
def test_pairwise_equals_the_formula_written_out(size, dilation):
    logits, edges, regions, images = example(neighbors=size * size - 1, dilation=dilation)
    results = []
    for loss in (pairwise_loss, direct):
        x = logits.clone().requires_grad_()
        value = loss(x, edges, regions, images, size=size, dilation=dilation)
        (2 * value).backward()
        results.append((value.detach(), x.grad))
    assert torch.allclose(results[0][0], results[1][0], atol=1e-12)
    assert torch.allclose(results[0][1], results[1][1], atol=1e-12)
    assert results[0][1].abs().sum() > 0


def test_pairwise_by_hand():
    """Two pixels, probabilities 0.8 and 0.3: -log(0.24 + 0.14), whichever end counts; both ends count twice."""
    logits = torch.logit(torch.tensor([[[0.8, 0.3]]], dtype=torch.float64))
    edges = torch.zeros(1, 8, 1, 2, dtype=torch.bool)
    edges[0, 4, 0, 0] = True
    region = torch.ones(1, 1, 2, dtype=torch.bool)
    for _ in range(2):
        loss = pairwise_loss(logits, edges, region, torch.zeros(1, dtype=torch.int64), dilation=1)
        assert loss.item() == pytest.approx(-math.log(0.38))
        edges[0, 3, 0, 1] = True
    only_left = torch.tensor([[[True, False]]])
    edges[0, 4, 0, 0] = False
    loss = pairwise_loss(logits, edges, only_left, torch.zeros(1, dtype=torch.int64), dilation=1)
    assert loss.item() == 0


def test_pairwise_gradient_numerically():
    logits, edges, regions, images = example(instances=2, height=4, width=5)
    assert torch.autograd.gradcheck(
        lambda x: pairwise_loss(x, edges, regions, images), logits.requires_grad_(), eps=1e-6, atol=1e-7
    )


def test_pairwise_of_certain_pixels_is_finite():
    logits = torch.tensor([[[90.0, 90.0], [-90.0, 90.0]]], requires_grad=True)
    edges = torch.zeros(1, 8, 2, 2, dtype=torch.bool)
    edges[0, 4, :, 0] = True  # right neighbor
    loss = pairwise_loss(logits, edges, torch.ones(1, 2, 2, dtype=torch.bool), torch.tensor([0]), dilation=1)
    loss.backward()
    # 0 for the equal pair; P(same) = 2 exp(-90) for the opposite one.
    assert loss.item() == pytest.approx((90 - math.log(2)) / 2)
    assert logits.grad.tolist() == [[[0, 0], [-0.25, 0.25]]]


@pytest.mark.parametrize("instances", [0, 3])
def test_without_pairs_zero_with_a_graph(instances):
    logits, edges, regions, images = example(instances=instances)
    logits.requires_grad_()
    loss = pairwise_loss(logits, torch.zeros_like(edges), regions, images)
    assert loss.item() == 0
    loss.backward()
    assert logits.grad.abs().sum() == 0


def test_edges_of_another_window_are_refused():
    logits, edges, regions, images = example()
    with pytest.raises(ValueError, match="8 neighbors, but size=5 has 24"):
        pairwise_loss(logits, edges, regions, images, size=5)


def test_without_gradient_none_is_computed():
    logits, edges, regions, images = example()
    value = pairwise_loss(logits, edges, regions, images)
    assert not value.requires_grad
    assert value.item() == pytest.approx(direct(logits, edges, regions, images).item())


def test_pairwise_takes_less_than_a_quarter_of_the_memory_of_the_formula_written_out():
    logits, edges, regions, images = example(instances=24, height=48, width=64, dtype=torch.float32)
    peaks = [
        peak_tensor_memory(lambda loss=loss: loss(logits.clone().requires_grad_(), edges, regions, images).backward())
        for loss in (pairwise_loss, direct)
    ]
    assert peaks[0] < 0.25 * peaks[1]
    assert peaks[0] < 12 * logits.numel() * 4 / 2**20
