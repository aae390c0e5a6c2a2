"""Mean field against a literal transcription of the paper's algorithm, point by point and label by label."""

import math

import numpy as np
import pytest
import torch

from instseg_d2.layers.mean_field import DenseCRF


def reference(probability, colors, crf):
    """Algorithm 1 of arXiv:1210.5644 with two labels, Potts compatibility and symmetrically normalised kernels."""
    height, width = probability.shape
    points = [(row, column) for row in range(height) for column in range(width)]
    count = len(points)
    kernels = np.zeros((2, count, count))
    for i, (y, x) in enumerate(points):
        for j, (v, u) in enumerate(points):
            place = (y - v) ** 2 + (x - u) ** 2
            hue = sum((colors[c, y, x] - colors[c, v, u]) ** 2 for c in range(3))
            kernels[0, i, j] = math.exp(-place / (2 * crf.bilateral_sigma**2) - hue / (2 * crf.color_sigma**2))
            kernels[1, i, j] = math.exp(-place / (2 * crf.smooth_sigma**2))
    for kernel in kernels:
        degree = kernel.sum(axis=1)
        kernel /= np.sqrt(np.outer(degree, degree))
        np.fill_diagonal(kernel, 0)
    unary = np.array([[-math.log(1 - probability[p]), -math.log(probability[p])] for p in points])
    beliefs = np.exp(-unary)
    for _ in range(crf.iterations):
        updated = np.zeros_like(beliefs)
        for i in range(count):
            energies = []
            for label in (0, 1):
                energy = unary[i, label]
                for weight, kernel in zip((crf.bilateral_weight, crf.smooth_weight), kernels, strict=True):
                    energy += weight * sum(kernel[i, j] * beliefs[j, 1 - label] for j in range(count))
                energies.append(energy)
            terms = np.exp(-np.array(energies))
            updated[i] = terms / terms.sum()
        beliefs = updated
    return beliefs[:, 1].reshape(height, width)


@pytest.mark.parametrize(
    "crf", [DenseCRF(iterations=3), DenseCRF(bilateral_sigma=2.0, color_sigma=20.0, smooth_weight=1.5, iterations=5)]
)
def test_equals_the_reference(crf):
    rng = np.random.default_rng(0)
    probabilities, colors = rng.uniform(0.02, 0.98, (3, 5, 4)), rng.integers(0, 40, (3, 3, 5, 4)).astype(float)
    refined = crf(torch.from_numpy(probabilities), torch.from_numpy(colors))
    assert refined.dtype == torch.float64
    expected = [reference(one, color, crf) for one, color in zip(probabilities, colors, strict=True)]
    np.testing.assert_allclose(refined.numpy(), np.stack(expected), atol=1e-10)


def test_a_mask_moves_to_the_edge_of_the_color():
    colors = torch.zeros(1, 3, 12, 12)
    colors[:, :, :, 6:] = 200.0
    probabilities = torch.full((1, 12, 12), 0.2)
    probabilities[:, :, 5:] = 0.8  # one column too many
    refined = DenseCRF()(probabilities, colors) >= 0.5
    assert torch.equal(refined[0], colors[0, 0] > 0)


def test_weights_of_zero_leave_the_probabilities():
    probabilities = torch.rand(2, 6, 6)
    refined = DenseCRF(bilateral_weight=0.0, smooth_weight=0.0)(probabilities, torch.rand(2, 3, 6, 6))
    torch.testing.assert_close(refined, probabilities, atol=2e-5, rtol=0)


def test_pieces_and_extremes():
    torch.manual_seed(0)
    probabilities, colors = torch.rand(5, 6, 6).round(), 255 * torch.rand(5, 3, 6, 6)
    whole = DenseCRF()(probabilities, colors)
    assert whole.isfinite().all()
    torch.testing.assert_close(DenseCRF(max_elements=1)(probabilities, colors), whole)
    assert DenseCRF()(probabilities[:0], colors[:0]).shape == (0, 6, 6)
