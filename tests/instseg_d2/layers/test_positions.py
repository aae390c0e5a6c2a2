import math

import pytest
import torch

from instseg_d2.layers.positions import sine_positions


def test_values_by_hand():
    """Two rows at pi and 2 pi, four columns at quarters of 2 pi; periods of 1 and of the root of the temperature."""
    maps = sine_positions((2, 4), 8, temperature=100.0)
    assert maps.shape == (8, 2, 4)
    row, column = math.pi, 3 * math.pi / 2
    expected = [
        [math.sin(row), math.cos(row), math.sin(row / 10), math.cos(row / 10)],
        [math.sin(column), math.cos(column), math.sin(column / 10), math.cos(column / 10)],
    ]
    torch.testing.assert_close(maps[:, 0, 2], torch.tensor(expected).flatten(), atol=1e-6, rtol=0)


def test_maps_of_any_size_end_at_the_same_place():
    small, large = sine_positions((3, 5), 16), sine_positions((30, 50), 16)
    torch.testing.assert_close(small[:, -1, -1], large[:, -1, -1])
    torch.testing.assert_close(small[:, 0, 0], large[:, 9, 9], atol=1e-5, rtol=0)


def test_channels_come_in_fours():
    with pytest.raises(ValueError, match="channels=6"):
        sine_positions((2, 2), 6)
