import numpy as np
import pytest

from instseg_d2.visualization.sheet import of_width


@pytest.mark.parametrize(("width", "size"), [(40, (20, 40, 3)), (10, (5, 10, 3)), (1, (1, 1, 3))])
def test_pictures_keep_their_shape_when_scaled(width, size):
    assert of_width(np.zeros((10, 20, 3), np.uint8), width).shape == size


def test_small_pictures_are_averages_and_large_ones_squares():
    picture = np.uint8([[0, 100], [0, 100]])[..., None].repeat(3, axis=2)
    assert of_width(picture, 1).tolist() == [[[50, 50, 50]]]
    assert of_width(picture, 4)[0, :, 0].tolist() == [0, 0, 100, 100]
