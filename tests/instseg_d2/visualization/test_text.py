import numpy as np
import pytest

from instseg_d2.visualization.text import line_height, shorten, text_width, wrap, write


def test_lines_fit():
    text = "occluder contour of the occluder"
    lines = wrap(text, 13, 100)
    assert " ".join(lines) == text
    assert len(lines) > 1
    assert all(text_width(line, 13) <= 100 for line in lines)
    assert wrap("mask", 13, 100) == ["mask"]
    (long,) = wrap("a" * 100, 13, 100)
    assert text_width(long, 13) <= 100
    assert long.endswith("…")
    assert shorten("mask", 13, 100) == "mask"


def test_text_stays_where_it_belongs():
    canvas = np.full((40, 200, 3), 255, np.uint8)
    write(canvas, "gÄ|", (10, 5), 13, (0, 0, 255))
    ys, xs = (canvas[..., 0] < 200).nonzero()
    assert xs.min() >= 10
    assert xs.max() < 10 + text_width("gÄ|", 13) + 2
    assert ys.min() >= 5
    assert ys.max() < 5 + line_height(13)
    assert (canvas[..., 2] == 255).all()  # red on white, in BGR


@pytest.mark.parametrize("corner", [(190, 0), (0, 35), (300, 0), (0, 50)])
def test_what_does_not_fit_is_cut_off(corner):
    canvas = np.full((40, 200, 3), 255, np.uint8)
    write(canvas, "mask", corner, 13)
    assert canvas.shape == (40, 200, 3)
    assert (canvas < 200).any() == (corner[0] < 200 and corner[1] < 40)


def test_letters_beyond_ascii_differ():
    pictures = []
    for text in "ä?ß":
        canvas = np.full((20, 20, 3), 255, np.uint8)
        write(canvas, text, (0, 0), 13)
        pictures.append(canvas)
    assert not np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[1], pictures[2])
