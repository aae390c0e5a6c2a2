"""Palette: known rows, orders and ranges, and which generator draws."""

import random

import numpy as np
import pytest
from detectron2.utils.colormap import colormap, random_color, random_colors


def test_known_rows():
    colors = colormap(rgb=True, maximum=1)
    assert colors.shape == (74, 3)
    assert colors.dtype == np.float32
    expected = {0: (0, 0.447, 0.741), 7: (0.3, 0.3, 0.3), 11: (0.749, 0.749, 0), 40: (0, 0.667, 1), 73: (1, 1, 1)}
    for row, color in expected.items():
        assert colors[row] == pytest.approx(color, abs=1e-7)
    assert colors.sum() == pytest.approx(99.845, abs=1e-3)


def test_order_and_range():
    rgb = colormap(rgb=True)
    assert rgb.max() == 255
    assert np.array_equal(colormap(), rgb[:, ::-1])
    assert rgb[0] == pytest.approx((0, 0.447 * 255, 0.741 * 255), abs=1e-4)
    with pytest.raises(AssertionError):
        colormap(maximum=100)


def test_random_color_follows_the_numpy_generator():
    np.random.seed(5)
    drawn = random_color(rgb=True, maximum=1)
    np.random.seed(5)
    assert np.array_equal(drawn, colormap(rgb=True, maximum=1)[np.random.randint(0, 74)])


def test_random_colors_are_rows_without_repetition():
    random.seed(5)
    drawn = random_colors(74, rgb=True)
    random.seed(5)
    assert np.array_equal(drawn, colormap(rgb=True)[random.sample(range(74), 74)])
    with pytest.raises(ValueError, match="[Ss]ample"):
        random_colors(75)
