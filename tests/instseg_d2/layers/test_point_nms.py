import torch

from instseg_d2.layers.point_nms import point_nms


def test_a_window_of_two_compares_with_the_cells_above_and_to_the_left():
    scores = torch.tensor([[0.5, 0.4, 0.6], [0.3, 0.2, 0.7], [0.8, 0.8, 0.1]])
    kept = point_nms(scores[None, None])[0, 0]
    expected = torch.tensor([[0.5, 0, 0.6], [0, 0, 0.7], [0.8, 0.8, 0]])
    assert torch.equal(kept, expected)


def test_a_window_of_three_is_centered():
    scores = torch.tensor([[0.5, 0.4, 0.6], [0.3, 0.2, 0.7], [0.8, 0.1, 0.1]])
    kept = point_nms(scores[None, None], size=3)[0, 0]
    assert torch.equal(kept, torch.tensor([[0.5, 0, 0], [0, 0, 0.7], [0.8, 0, 0]]))


def test_images_and_classes_are_on_their_own():
    scores = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    whole = point_nms(scores)
    assert torch.equal(whole[1:, 2:], point_nms(scores[1:, 2:]))
