"""Affinities: the z-score, the three readings of the loss with values by hand, and the mixing against its formula."""

import pytest
import torch
from torch.nn import functional as F

from instseg_d2.layers.affinity import (
    AFFINITY_FORMS,
    AffinityParsing,
    affinity_logits,
    affinity_loss,
    affinity_losses,
    z_scores,
)

PIXELS = 196


def first(count, pixels=PIXELS):
    """One region whose first pixels are the object."""
    return (torch.arange(pixels) < count)[None]


def log_of(rows):
    return torch.tensor([rows], dtype=torch.double).log()


def test_z_scores_have_mean_zero_and_variance_one():
    torch.manual_seed(0)
    scores = z_scores(5 + 3 * torch.randn(2, 7, 256, dtype=torch.double))
    assert torch.allclose(scores.mean(-1), torch.zeros(2, 7, dtype=torch.double), atol=1e-12)
    assert torch.allclose(scores.var(-1, unbiased=False), torch.ones(2, 7, dtype=torch.double), atol=1e-5)
    by_hand = z_scores(torch.tensor([1.0, 3.0, 5.0, 7.0]), epsilon=0)  # mean 4, variance 5
    assert by_hand.tolist() == pytest.approx([-3 / 5**0.5, -1 / 5**0.5, 1 / 5**0.5, 3 / 5**0.5])


def test_constant_vectors_give_zeros_with_finite_gradients():
    vectors = torch.full((1, 2, 8), 3.0, requires_grad=True)
    logits = affinity_logits(vectors, vectors)
    assert not logits.any()
    logits.sum().backward()
    assert vectors.grad.isfinite().all()


def test_logits_are_correlation_coefficients_times_channels():
    torch.manual_seed(0)
    queries, keys = torch.randn(2, 1, 5, 256, dtype=torch.double)
    expected = 256 * torch.corrcoef(torch.cat([queries[0], keys[0]]))[:5, 5:]
    assert torch.allclose(affinity_logits(queries, keys, scale=False)[0], expected, atol=0.01)
    assert torch.allclose(affinity_logits(queries, keys)[0], expected / 16, atol=0.01)


def test_without_the_scale_the_softmax_is_saturated():
    """Random embeddings of 256 channels: deviations 16 and 1; a row's largest probability about 0.87 and 0.054."""
    torch.manual_seed(0)
    queries, keys = torch.randn(2, 4, PIXELS, 256)
    for scale, deviation, largest in ((False, 16, 0.87), (True, 1, 0.054)):
        logits = affinity_logits(queries, keys, scale=scale)
        assert logits.std().item() == pytest.approx(deviation, rel=0.02)
        assert logits.softmax(-1).amax(-1).mean().item() == pytest.approx(largest, rel=0.1)


def test_logits_keep_their_digits_under_autocast():
    torch.manual_seed(0)
    queries, keys = torch.randn(2, 1, 9, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = affinity_logits(queries, keys)
    assert torch.allclose(inside, affinity_logits(queries, keys), atol=1e-6)
    assert affinity_logits(queries.bfloat16(), keys.bfloat16()).dtype == torch.float32


def test_three_forms_by_hand():
    """Of three pixels the first two are the object; rows 0.5 0.3 0.2, 0.1 0.6 0.3 and, of the background, 0 0.5 0.5.

    rows: the background has 0.2 and 0.3 of the rows, twice the mean is 0.5.
    literal: S_ff = 0.8 + 0.7, S_fb = 0.5: 0.5 + 0.5 = n - 1.
    pairs: these rows are a third of all each: S_ff = 0.5, S_fb = 1 / 6.
    """
    logits = log_of([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3], [1e-30, 0.5, 0.5]])
    expected = {"rows": 0.5, "literal": 1.0, "pairs": 0.5 + 1 / 6}
    for form, value in expected.items():
        assert affinity_loss(logits, first(2, 3), form).item() == pytest.approx(value)


def test_rows_are_twice_the_mean_mass_on_the_background():
    torch.manual_seed(0)
    logits = torch.randn(3, PIXELS, PIXELS)
    foreground = torch.rand(3, PIXELS) < 0.4
    rows = logits.softmax(-1)
    assert torch.allclose(rows.sum(-1), torch.ones(3, PIXELS), atol=1e-5)
    for region, inside in enumerate(foreground):
        own = rows[region][inside]
        printed = ((1 - own[:, inside].sum(1)).abs() + own[:, ~inside].sum(1).abs()).mean()
        found = affinity_losses(logits, foreground)[region]
        assert found.item() == pytest.approx(printed.item(), rel=1e-5)
        assert found.item() == pytest.approx(2 * own[:, ~inside].sum(1).mean().item(), rel=1e-5)


@pytest.mark.parametrize("count", [1, 14, 60, 195])
def test_uniform_affinities(count):
    """rows: 2 (1 - n / N). pairs: S_ff = (n / N)^2, S_fb = n (N - n) / N^2, together 1 - n/N (2n/N - 1)."""
    logits, share = torch.zeros(1, PIXELS, PIXELS), count / PIXELS
    assert affinity_loss(logits, first(count)).item() == pytest.approx(2 * (1 - share), rel=1e-5)
    pairs = 1 - share**2 + share * (1 - share)
    assert affinity_loss(logits, first(count), "pairs").item() == pytest.approx(pairs, rel=1e-5)


@pytest.mark.parametrize("count", [14, 20, 60, 120])
def test_the_literal_form_is_a_constant_without_gradient(count):
    torch.manual_seed(0)
    for logits in (torch.zeros(1, PIXELS, PIXELS), 0.01 * torch.randn(1, PIXELS, PIXELS)):
        logits = logits.double() + 5 * first(count).double()[:, None]  # S_ff well above 1
        logits.requires_grad_()
        loss = affinity_loss(logits, first(count), "literal")
        assert loss.item() == pytest.approx(count - 1)
        loss.backward()
        assert logits.grad.abs().max().item() < 1e-12
    learning = torch.randn(1, PIXELS, PIXELS, requires_grad=True)
    affinity_loss(learning, first(count), "rows").backward()
    assert learning.grad.abs().max().item() > 1e-6


def test_few_pixels_do_learn_by_the_literal_form():
    logits = torch.zeros(1, PIXELS, PIXELS, requires_grad=True)
    loss = affinity_loss(logits, first(5), "literal")
    assert loss.item() == pytest.approx(1 - 25 / PIXELS + 5 * 191 / PIXELS, rel=1e-5)
    loss.backward()
    assert logits.grad.any()


@pytest.mark.parametrize("form", AFFINITY_FORMS)
def test_background_rows_are_not_taught_but_by_a_softmax_over_pairs(form):
    torch.manual_seed(0)
    logits = torch.randn(1, 6, 6, dtype=torch.double, requires_grad=True)
    affinity_loss(logits, first(2, 6), form).backward()
    assert bool(logits.grad[0, 2:].any()) == (form == "pairs")


@pytest.mark.parametrize("form", AFFINITY_FORMS)
def test_regions_of_one_kind_of_pixel_are_left_out(form):
    torch.manual_seed(0)
    logits = torch.randn(4, 6, 6, requires_grad=True)
    foreground = torch.stack([first(count, 6)[0] for count in (0, 2, 6, 3)])
    losses = affinity_losses(logits, foreground, form)
    assert losses[0] == losses[2] == 0
    assert losses[1] > 0
    mean = affinity_loss(logits, foreground, form)
    assert mean.item() == pytest.approx((losses[1] + losses[3]).item() / 2)
    mean.backward()
    assert logits.grad.isfinite().all()
    for chosen in ([0, 2], []):
        logits.grad = None
        nothing = affinity_loss(logits[chosen], foreground[chosen], form)
        assert nothing.item() == 0
        nothing.backward()
        assert logits.grad is not None
        assert not logits.grad.any()


def test_each_region_counts_the_same_however_large_its_object():
    logits = torch.zeros(2, 10, 10)
    foreground = torch.cat([first(1, 10), first(9, 10)])
    assert affinity_loss(logits, foreground).item() == pytest.approx((2 * 0.9 + 2 * 0.1) / 2)


@pytest.mark.parametrize("form", ["rows", "pairs"])
def test_learning_brings_the_mass_into_the_object(form):
    logits = torch.zeros(1, 12, 12, requires_grad=True)
    for _ in range(200):
        loss = affinity_loss(logits, first(4, 12), form)
        (gradient,) = torch.autograd.grad(loss, logits)
        logits.data -= 50 * gradient
    assert loss.item() < 0.1


@pytest.mark.parametrize("form", ["rows", "pairs"])
def test_gradients_of_the_loss(form):
    torch.manual_seed(0)
    logits = torch.randn(2, 5, 5, dtype=torch.double, requires_grad=True)
    foreground = torch.cat([first(2, 5), first(4, 5)])
    assert torch.autograd.gradcheck(lambda values: affinity_loss(values, foreground, form), logits)


def test_unknown_form():
    with pytest.raises(ValueError, match="form='columns': must be one of"):
        affinity_loss(torch.zeros(1, 2, 2), first(1, 2), "columns")


@pytest.mark.parametrize("scale", [True, False])
def test_mixing_equals_the_formula_written_out(scale):
    torch.manual_seed(0)
    layer = AffinityParsing(6, embed_dim=5, scale=scale, value_std=1.0).double()
    x = torch.randn(3, 6, 2, 4, dtype=torch.double)
    mixed, logits = layer(x)
    assert logits.shape == (3, 8, 8)
    for region, found, row in zip(x, mixed, logits, strict=True):
        nodes = region.flatten(1).T
        theta, phi, g = (nodes @ part.weight[:, :, 0, 0].T for part in (layer.theta, layer.phi, layer.g))
        theta, phi = (F.layer_norm(part, (5,)) for part in (theta, phi))
        products = theta @ phi.T / (5**0.5 if scale else 1)
        assert torch.allclose(row, products)
        expected = (products.softmax(dim=1) @ g).T.reshape(region.shape) + region
        assert torch.allclose(found, expected)


def test_gradients_of_the_mixing():
    torch.manual_seed(0)
    layer = AffinityParsing(4).double()
    x = torch.randn(2, 4, 2, 3, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(layer, x, atol=1e-5)


def test_starts_near_its_input():
    torch.manual_seed(0)
    x = torch.randn(2, 64, 7, 7)
    mixed, _ = AffinityParsing(64)(x)
    assert (mixed - x).norm() < 0.1 * x.norm()


def test_no_region_keeps_the_parameters_in_the_graph():
    layer = AffinityParsing(4)
    mixed, logits = layer(torch.zeros(0, 4, 3, 3))
    assert mixed.shape == (0, 4, 3, 3)
    assert logits.shape == (0, 9, 9)
    (mixed.sum() + affinity_loss(logits, torch.zeros(0, 9, dtype=torch.bool))).backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in layer.parameters())


def test_sizes_of_the_thesis():
    assert sum(parameter.numel() for parameter in AffinityParsing(256).parameters()) == 3 * 65_536
