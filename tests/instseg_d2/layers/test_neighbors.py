"""Dilated neighbors: their order, windows, and similarity against unfold."""

import math

import pytest
import torch
from torch.nn import functional as F

from instseg_d2.layers.neighbors import neighbor_offsets, neighbor_similarity, pair_windows


def test_offsets_row_by_row_and_opposite():
    offsets = neighbor_offsets(3, 2)
    assert offsets == [(-2, -2), (-2, 0), (-2, 2), (0, -2), (0, 2), (2, -2), (2, 0), (2, 2)]
    offsets = neighbor_offsets(5, 1)
    assert len(offsets) == 24
    assert all(a == (-dy, -dx) for a, (dy, dx) in zip(offsets, reversed(offsets), strict=True))
    with pytest.raises(ValueError, match="size=4 has no center"):
        neighbor_offsets(4, 1)


@pytest.mark.parametrize("offset", neighbor_offsets(3, 2))
def test_windows_lie_at_the_offset(offset):
    rows, columns = torch.meshgrid(torch.arange(6), torch.arange(5), indexing="ij")
    here, there = pair_windows(offset, 6, 5)
    assert set((rows[there] - rows[here]).flatten().tolist()) == {offset[0]}
    assert set((columns[there] - columns[here]).flatten().tolist()) == {offset[1]}
    assert rows[here].numel() == (6 - abs(offset[0])) * (5 - abs(offset[1]))


def test_windows_of_a_map_that_is_too_small_are_empty():
    for offset in neighbor_offsets(3, 2):
        here, there = pair_windows(offset, 1, 1)
        assert torch.zeros(1, 1)[here].numel() == torch.zeros(1, 1)[there].numel() == 0


def test_similarity_by_hand():
    """Colors 0, 3 and 7 in a row, neighbors one pixel away: exp(-3 / 2) and exp(-4 / 2)."""
    values = torch.tensor([[[[0.0, 3.0, 7.0]]]])
    left, right = 3, 4
    result = neighbor_similarity(values, torch.ones(1, 1, 3, dtype=torch.bool), dilation=1)
    assert result.shape == (1, 8, 1, 3)
    assert result[0, right, 0].tolist() == pytest.approx([math.exp(-1.5), math.exp(-2), 0])
    assert result[0, left, 0].tolist() == pytest.approx([0, math.exp(-1.5), math.exp(-2)])
    assert result[0, [0, 1, 2, 5, 6, 7]].abs().sum() == 0


def test_the_neighbor_must_be_valid_and_the_pixel_need_not():
    valid = torch.tensor([[[True, False, True]]])
    result = neighbor_similarity(torch.zeros(1, 3, 1, 3), valid, dilation=1)
    assert result[0, 4, 0].tolist() == [0, 1, 0]
    assert result[0, 3, 0].tolist() == [0, 1, 0]


@pytest.mark.parametrize(("size", "dilation"), [(3, 2), (3, 1), (5, 2)])
def test_equals_unfold(size, dilation):
    rng = torch.Generator().manual_seed(0)
    values = torch.randn(2, 3, 9, 11, generator=rng)
    valid = torch.rand(2, 9, 11, generator=rng) > 0.3

    def unfold(x):
        count = size * size
        x = F.unfold(x, size, padding=dilation * (size // 2), dilation=dilation)
        x = x.reshape(2, -1, count, 9, 11)
        return x[:, :, [i for i in range(count) if i != count // 2]]

    distance = (values[:, :, None] - unfold(values)).norm(dim=1)
    expected = torch.exp(-distance / 2) * unfold(valid[:, None].float())[:, 0]
    result = neighbor_similarity(values, valid, size=size, dilation=dilation)
    assert torch.allclose(result, expected, atol=1e-7)
