import math

import pytest
import torch

from instseg_d2.layers import matrix_nms as module
from instseg_d2.layers.matrix_nms import mask_ious, matrix_nms


def spans(*ends, length=20):
    """Masks of one row: True from the first to before the second of each pair."""
    masks = torch.zeros(len(ends), 1, length, dtype=torch.bool)
    for mask, (start, end) in zip(masks, ends, strict=True):
        mask[:, start:end] = True
    return masks


def by_loops(masks, classes, scores, kernel, sigma=2.0):
    """The definition, pair by pair."""

    def iou(i, j):
        union = (masks[i] | masks[j]).sum().item()
        return (masks[i] & masks[j]).sum().item() / union if union else 0.0

    def f(x):
        return math.exp(-sigma * x * x) if kernel == "gaussian" else 1 - x

    def better(i, j):
        ahead = (scores[i], -i) > (scores[j], -j)
        return ahead and classes[i] == classes[j]

    indices = range(len(scores))
    result = []
    for j in indices:
        share = 1.0
        for i in indices:
            if better(i, j):
                compensation = max((iou(h, i) for h in indices if better(h, i)), default=0.0)
                share = min(share, f(iou(i, j)) / f(compensation))
        result.append(scores[j] * share)
    return result


@pytest.mark.parametrize("kernel", module.KERNELS)
def test_equals_its_definition_for_random_masks_in_any_order(kernel):
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        count = int(torch.randint(1, 12, (1,), generator=generator))
        masks = torch.rand(count, 6, 7, generator=generator) < 0.6
        classes = torch.randint(0, 2, (count,), generator=generator)
        scores = torch.rand(count, generator=generator).double().mul(8).round().div(8)  # with ties
        expected = by_loops(masks, classes.tolist(), scores.tolist(), kernel)
        assert matrix_nms(masks, classes, scores, kernel=kernel).tolist() == pytest.approx(expected, abs=1e-6)


def test_a_suppressed_mask_suppresses_less():
    # IoU 1/3 of the first two, 1/3 of the last two, none of the outer ones.
    masks = spans((0, 8), (4, 12), (8, 16))
    scores = matrix_nms(masks, torch.zeros(3), torch.tensor([0.9, 0.8, 0.7]))
    # The last one: the decay by its neighbor, exp(-2/9), over the neighbor's own compensation, the same.
    assert scores.tolist() == pytest.approx([0.9, 0.8 * math.exp(-2 / 9), 0.7])
    linear = matrix_nms(masks, torch.zeros(3), torch.tensor([0.9, 0.8, 0.7]), kernel="linear")
    assert linear.tolist() == pytest.approx([0.9, 0.8 * 2 / 3, 0.7])


def test_copies_vanish_but_not_those_of_another_class():
    masks = spans((0, 8), (0, 8), (0, 8), (2, 8))
    classes = torch.tensor([1, 1, 2, 1])
    scores = matrix_nms(masks, classes, torch.tensor([0.9, 0.8, 0.7, 0.6]), kernel="linear")
    assert scores.tolist() == pytest.approx([0.9, 0.0, 0.7, 0.6 * 0.25])


def test_nothing_and_one_mask():
    assert matrix_nms(spans(), torch.zeros(0), torch.zeros(0)).shape == (0,)
    assert matrix_nms(spans((0, 3)), torch.zeros(1), torch.tensor([0.5])).tolist() == [0.5]
    assert mask_ious(spans((0, 0), (0, 0), (0, 4))).tolist() == [[0, 0, 0], [0, 0, 0], [0, 0, 1]]


def test_ious_are_exact_in_parts_and_under_autocast(monkeypatch):
    masks = torch.rand(5, 40, 50, generator=torch.Generator().manual_seed(0)) < 0.5
    whole = mask_ious(masks)
    assert whole[0, 1].item() == pytest.approx((masks[0] & masks[1]).sum().item() / (masks[0] | masks[1]).sum().item())
    monkeypatch.setattr(module, "_FLOATS", 5 * 33)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(mask_ious(masks), whole)


def test_an_unknown_kernel_is_refused():
    with pytest.raises(ValueError, match="gauss.*gaussian, linear"):
        matrix_nms(spans((0, 3)), torch.zeros(1), torch.ones(1), kernel="gauss")
