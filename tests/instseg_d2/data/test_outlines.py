import numpy as np
import pytest

from instseg_d2.data.synthetic import CATEGORIES, SEEN, UNSEEN
from instseg_d2.data.synthetic.outlines import deform, unit_outline

PROPORTIONS = [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0), (0.0, 1.0), (1.0, 0.0)]


def area_by_counting(contours, step=0.01, reach=3.0):
    """Area under the even-odd rule, by crossing counts of the rows of a fine grid."""
    grid = np.arange(-reach, reach, step) + step / 2
    inside = np.zeros((len(grid), len(grid)), dtype=bool)
    for contour in contours:
        for (x1, y1), (x2, y2) in zip(contour, np.roll(contour, -1, axis=0), strict=True):
            rows = (grid >= min(y1, y2)) & (grid < max(y1, y2))
            if rows.any():
                cut = x1 + (grid[rows] - y1) / (y2 - y1) * (x2 - x1)
                inside[rows] ^= grid[None] > cut[:, None]
    return inside.sum() * step**2


def test_seen_and_unseen_split_ten_names():
    assert len(SEEN) == len(UNSEEN) == 5
    assert set(SEEN) | set(UNSEEN) == {category.name for category in CATEGORIES}
    assert not set(SEEN) & set(UNSEEN)


def test_hues_keep_their_distance():
    hues = sorted(category.hue for category in CATEGORIES)
    assert min(np.diff([*hues, hues[0] + 360])) > 2 * 12


@pytest.mark.parametrize("category", range(10))
def test_outline_has_the_area_of_the_unit_disc_and_is_centred(category):
    for proportions in PROPORTIONS:
        contours = unit_outline(category, proportions)
        assert area_by_counting(contours) == pytest.approx(np.pi, rel=0.02)
        np.testing.assert_allclose(contours[0].min(axis=0) + contours[0].max(axis=0), 0, atol=1e-9)


def test_deform_bends_and_waves_as_written():
    square = [np.array([[1.0, 0.0], [0.0, 2.0], [-1.0, 0.0]])]
    np.testing.assert_allclose(deform(square, 0.5, ())[0], [[1, 0.5], [0, 2], [-1, 0.5]])
    # cos(2 * angle) is 1 on the x axis and -1 on the y axis.
    np.testing.assert_allclose(deform(square, 0.0, ((2, 0.1, 0.0),))[0], [[1.1, 0], [0, 1.8], [-1.1, 0]], atol=1e-12)
