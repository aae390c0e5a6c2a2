"""Prototypes: against plain NumPy, by hand, on sets without pixels, and under autocast."""

import math

import numpy as np
import pytest
import torch

from instseg_d2.layers.prototypes import (
    aggregate,
    cluster,
    posteriors,
    random_means,
    read,
    unit_length,
    weighted_means,
)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def numpy_em(pixels, means, iterations, variance, mask=None):
    """Expectation maximization with loops over pixels and components, in double precision."""
    means = means.copy()
    mask = np.ones(len(pixels)) if mask is None else mask
    for _ in range(iterations):
        shares = np.zeros((len(pixels), len(means)))
        for i, pixel in enumerate(pixels):
            density = np.array([math.exp(-((pixel - mean) ** 2).sum() / (2 * variance)) for mean in means])
            shares[i] = mask[i] * density / density.sum()
        means = np.stack([(shares[:, j : j + 1] * pixels).sum(0) / shares[:, j].sum() for j in range(len(means))])
    return means, shares


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("iterations", [1, 6])
def test_means_are_those_of_plain_em(iterations, masked):
    pixels, means = torch.randn(3, 60, 4), torch.randn(3, 5, 4)
    mask = torch.rand(3, 60) > 0.5 if masked else None
    found, weights = cluster(pixels, means, iterations=iterations, variance=0.7, normalize=False, mask=mask)
    for b in range(3):
        on = mask[b].numpy().astype(float) if masked else None
        expected, shares = numpy_em(pixels[b].double().numpy(), means[b].double().numpy(), iterations, 0.7, on)
        assert np.abs(found[b].numpy() - expected).max() < 1e-4
        assert np.abs(weights[b].numpy() - shares).max() < 1e-4


def test_read_is_the_direct_formula():
    queries, means, values = torch.randn(2, 7, 4), torch.randn(2, 5, 4), torch.randn(2, 5, 3)
    for variance in (0.3, 1.0):
        densities = torch.exp(-(torch.cdist(queries.double(), means.double()) ** 2) / (2 * variance))
        expected = densities @ values.double() / densities.sum(dim=2, keepdim=True)
        assert torch.allclose(read(queries, means, values, variance=variance).double(), expected, atol=1e-5)


def test_distance_and_dot_differ_only_by_the_length_of_means():
    pixels, means = torch.randn(2, 9, 4), torch.randn(2, 5, 4)
    shares = {m: posteriors(pixels, means, variance=0.5, metric=m) for m in ("distance", "dot")}
    assert torch.allclose(shares["dot"], (pixels @ means.transpose(1, 2) / 0.5).softmax(dim=2), atol=1e-6)
    assert not torch.allclose(shares["dot"], shares["distance"], atol=0.05)
    means = unit_length(means)
    shares = [posteriors(pixels, means, variance=0.5, metric=m) for m in ("distance", "dot")]
    assert torch.allclose(*shares, atol=1e-5)


def test_two_clear_clusters_by_hand():
    pixels = torch.tensor([[[1.0, 0.0], [3.0, 0.0], [0.0, 6.0], [0.0, 8.0]]])
    start = torch.tensor([[[1.0, 0.0], [0.0, 6.0]]])
    means, weights = cluster(pixels, start, iterations=3, variance=0.1, normalize=False)
    assert torch.allclose(means, torch.tensor([[[2.0, 0.0], [0.0, 7.0]]]), atol=1e-4)
    values = weighted_means(torch.tensor([[[1.0], [5.0], [2.0], [4.0]]]), weights)
    assert torch.allclose(values, torch.tensor([[[3.0], [3.0]]]), atol=1e-4)
    means, _ = cluster(pixels, unit_length(start), iterations=3, variance=0.1)
    assert torch.allclose(means, torch.eye(2)[None], atol=1e-4)


def test_masked_pixels_do_not_count():
    pixels, means = torch.randn(1, 20, 4), random_means(3, 4)[None]
    mask = torch.arange(20)[None] < 12
    masked, weights = cluster(pixels, means, iterations=4, mask=mask)
    alone, _ = cluster(pixels[:, :12], means, iterations=4)
    assert torch.allclose(masked, alone, atol=1e-5)
    assert weights[:, 12:].abs().max() == 0


@pytest.mark.parametrize("pixels", [torch.randn(2, 6, 4), torch.zeros(2, 0, 4)], ids=["empty mask", "no pixels"])
def test_without_pixels_means_stay_or_vanish(pixels):
    pixels = pixels.clone().requires_grad_()
    start = random_means(3, 4).expand(2, -1, -1)
    mask = torch.zeros(pixels.shape[:2], dtype=torch.bool)
    for keep_empty, expected in ((True, start), (False, torch.zeros_like(start))):
        means, weights = cluster(pixels, start, iterations=3, mask=mask, keep_empty=keep_empty)
        assert torch.equal(means, expected)
        values = weighted_means(pixels, weights)
        assert torch.equal(values, torch.zeros(2, 3, 4))
        (means.sum() + values.sum()).backward()
        assert torch.isfinite(pixels.grad).all()
    # Nothing attracts: the attention is flat.
    assert torch.allclose(posteriors(torch.randn(2, 5, 4), means, variance=1.0), torch.tensor(1 / 3))


def test_one_pixel_and_more_prototypes_than_pixels():
    pixel, start = torch.randn(1, 1, 4), random_means(6, 4)[None]
    means, weights = cluster(pixel, start, iterations=3, variance=10.0, normalize=False)
    assert torch.allclose(means, pixel.expand_as(means), atol=1e-4)
    assert weights.sum().item() == pytest.approx(1)
    # One component takes each of the pixels for itself, the others have none and stay.
    pixels = 10 * torch.eye(4)[None, :2]
    means, weights = cluster(pixels, start, iterations=3, variance=0.01)
    taken = weights.sum(dim=1)[0] > 0.5
    assert 1 <= taken.sum() <= 2
    assert torch.equal(means[0, ~taken], start[0, ~taken])
    assert means.isfinite().all()


def test_sets_of_a_batch_do_not_know_each_other():
    pixels, start = torch.randn(4, 10, 3), random_means(2, 3).expand(4, -1, -1)
    together, _ = cluster(pixels, start, iterations=5)
    alone = [cluster(pixels[i : i + 1], start[:1], iterations=5)[0] for i in range(4)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)
    assert cluster(pixels[:0], start[:0], iterations=5)[0].shape == (0, 2, 3)


def test_warm_start_goes_on_where_the_last_fit_ended():
    pixels, start = torch.randn(1, 40, 4), random_means(3, 4)[None]
    half, _ = cluster(pixels, start, iterations=3)
    assert torch.allclose(cluster(pixels, half, iterations=3)[0], cluster(pixels, start, iterations=6)[0], atol=1e-6)


def test_long_features_overflow_nothing():
    pixels, start = 1e4 * torch.randn(1, 30, 8), random_means(4, 8)[None]
    means, weights = cluster(pixels, start, iterations=4, variance=1e-3)
    assert means.isfinite().all()
    assert weights.sum().item() == pytest.approx(30, rel=1e-4)


def test_gradients_are_those_of_the_last_iteration():
    pixels = torch.randn(1, 6, 3, dtype=torch.float64, requires_grad=True)
    values = torch.randn(1, 6, 2, dtype=torch.float64, requires_grad=True)
    start = random_means(2, 3)[None].double()

    def attend(pixels, values):
        means, weights = cluster(pixels, start, iterations=1, variance=0.5)
        return read(pixels, means, weighted_means(values, weights))

    assert torch.autograd.gradcheck(attend, (pixels, values), fast_mode=True)
    means, _ = cluster(pixels, start, iterations=2, variance=0.5)
    first, _ = cluster(pixels.detach(), start, iterations=1, variance=0.5)
    expected, _ = cluster(pixels, first, iterations=1, variance=0.5)
    wanted = torch.randn_like(means)
    assert torch.equal(*(torch.autograd.grad((x * wanted).sum(), pixels)[0] for x in (means, expected)))


def test_aggregation_by_hand():
    """Dot products with the current (1, 0) are 1, 2 and -1."""
    current, others = torch.tensor([[[1.0, 0.0]]]), [torch.tensor([[[2.0, 3.0]]]), torch.tensor([[[-1.0, 4.0]]])]
    weights = torch.tensor([1.0, 2.0, -1.0]).exp()
    weights = weights / weights.sum()
    expected = torch.stack([weights @ torch.tensor([1.0, 2.0, -1.0]), weights @ torch.tensor([0.0, 3.0, 4.0])])
    assert torch.allclose(aggregate(current, others)[0, 0], expected)
    assert torch.allclose(aggregate(current, others, scale=1e-9)[0, 0], torch.tensor([2 / 3, 7 / 3]))
    assert torch.allclose(aggregate(current, []), current)


def test_float32_under_autocast():
    pixels, start = torch.randn(2, 30, 8), random_means(4, 8).expand(2, -1, -1)
    expected, weights = cluster(pixels, start, iterations=4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, _ = cluster(pixels, start, iterations=4)
        values = weighted_means(pixels, weights)
        result = aggregate(pixels, [read(pixels, found, values)])
    assert torch.equal(found, expected)
    assert values.dtype == result.dtype == torch.float32
    assert torch.equal(result, aggregate(pixels, [read(pixels, expected, weighted_means(pixels, weights))]))
    halves = cluster(pixels.bfloat16(), start.bfloat16(), iterations=4)
    assert [part.dtype for part in halves] == [torch.float32] * 2


def test_random_means_have_length_one():
    assert torch.allclose(random_means(7, 5).norm(dim=1), torch.ones(7), atol=1e-4)
    assert random_means(0, 5).shape == (0, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"metric": "cosine"}, "'cosine'"), ({"variance": 0.0}, "0.0"), ({"iterations": 0}, "at least 1")],
)
def test_unknown_values_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        cluster(torch.randn(1, 4, 2), torch.randn(1, 3, 2), **{"iterations": 1, **options})
