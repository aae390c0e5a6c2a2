import numpy as np
import pytest
import torch

from instseg_d2.visualization.film_strip import GAP, MARGIN
from instseg_d2.visualization.overlay import id_colour
from instseg_d2.visualization.prototypes import draw_attended_regions, most_attended, paint_regions


def test_pixels_have_the_color_of_their_prototype():
    shares = np.zeros((3, 20, 20), np.float32)
    shares[0, :, :10] = 1
    shares[2, :, 10:] = 1
    shares[:, :, 15:] = 1 / 3
    drawn = paint_regions(np.zeros((20, 20, 3), np.uint8), shares).astype(float)
    for column, identity in ((5, 1), (12, 3)):
        assert drawn[10, column] == pytest.approx(25 * 0.15 + 0.85 * id_colour(identity), abs=1)
    # Who is not sure is pale; who says nothing has no color.
    assert drawn[10, 17] == pytest.approx(25 * 0.65 + 0.35 * id_colour(1), abs=1)
    shares[:, :5] = np.nan
    assert (paint_regions(np.zeros((20, 20, 3), np.uint8), shares)[:5] == 25).all()


def test_prototypes_are_ranked_over_all_frames():
    a, b = np.zeros((3, 4, 4)), np.zeros((3, 2, 2))
    a[1], b[2], b[0] = 0.4, 0.9, 0.1
    assert most_attended([a, b], 2) == [2, 1]


def test_regions_over_time():
    frames = [np.full((40, 60, 3), 100, np.uint8)] * 3
    maps = torch.zeros(4, 10, 15)
    maps[3] = 1
    drawn = draw_attended_regions(frames, [None, maps, maps], prototypes=2, height=20, title="p3")
    assert drawn.shape[1] == MARGIN + 3 * (30 + GAP)
    rows = [len(drawn) - number * (20 + GAP) for number in (3, 2, 1)]
    columns = [MARGIN + number * (30 + GAP) + 15 for number in range(3)]
    # Without memory the frame is grey.
    assert len(set(drawn[rows[0] + 10, columns[0]])) == 1
    assert np.array_equal(drawn[rows[0] + 10, columns[1]], drawn[rows[0] + 10, columns[2]])
    best, other = (drawn[row + 10, columns[1]] for row in rows[1:])
    assert best.astype(int).sum() > other.astype(int).sum()
    nothing = draw_attended_regions(frames, [None] * 3, height=20)
    assert len(drawn) - len(nothing) == 2 * (20 + GAP)


@pytest.mark.parametrize("shares", [[], [torch.zeros(2, 4, 4), torch.zeros(3, 4, 4)]])
def test_maps_must_fit_the_frames(shares):
    with pytest.raises(ValueError, match="there are 2 frames"):
        draw_attended_regions([np.zeros((8, 8, 3), np.uint8)] * 2, shares)
