import torch

from instseg_d2.layers.coordinates import append_coordinates


def test_x_then_y_from_minus_one_to_one():
    result = append_coordinates(torch.full((2, 1, 2, 3), 7.0))
    assert result.shape == (2, 3, 2, 3)
    assert result[1].tolist() == [[[7, 7, 7]] * 2, [[-1, 0, 1]] * 2, [[-1] * 3, [1] * 3]]


def test_dtype_stays_and_one_cell_and_no_image_work():
    assert append_coordinates(torch.zeros(1, 4, 1, 1, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert append_coordinates(torch.zeros(0, 4, 3, 3)).shape == (0, 6, 3, 3)
