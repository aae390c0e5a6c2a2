import pytest
import torch

from instseg_d2.layers import point_sampling
from instseg_d2.layers.point_sampling import sample_points, uncertain_points


def test_values_by_hand():
    maps = torch.tensor([[[0.0, 1.0], [2.0, 3.0]]])
    points = torch.tensor([[[0.25, 0.25], [0.75, 0.75], [0.5, 0.5], [0.0, 0.25], [2.0, 2.0]]])
    # The corner lies half a pixel outside of the first middle: half of what is beyond, which is 0.
    assert sample_points(maps, points).tolist() == [[0.0, 3.0, 1.5, 0.0, 0.0]]
    assert sample_points(maps + 1, points)[0, 3].item() == 0.5


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8])
def test_whole_numbers_go_through_floats_in_parts(dtype, monkeypatch):
    rng = torch.Generator().manual_seed(0)
    masks = torch.rand(5, 6, 8, generator=rng) > 0.5
    points = torch.rand(5, 7, 2, generator=rng)
    monkeypatch.setattr(point_sampling, "_ELEMENTS", 2 * 48)
    torch.testing.assert_close(sample_points(masks.to(dtype), points), sample_points(masks.float(), points))
    shared = sample_points(masks.to(dtype), points[:1])
    torch.testing.assert_close(shared, sample_points(masks.float(), points[:1].expand(5, -1, -1)))


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_no_maps(dtype):
    empty = torch.zeros(0, 4, 4, dtype=dtype)
    assert sample_points(empty, torch.rand(1, 3, 2)).shape == (0, 3)
    assert sample_points(empty, torch.rand(0, 3, 2)).shape == (0, 3)
    assert uncertain_points(empty.float(), 8).shape == (0, 8, 2)


def test_points_gather_where_the_mask_is_unsure():
    """Logits are 0 in the middle column alone; a fifth of random points are nearer than a tenth to it."""
    torch.manual_seed(0)
    logits = (torch.arange(50) - 24.5).abs().expand(3, 50, 50)
    points = uncertain_points(logits, 200, oversampling=5.0, importance=0.5)
    assert points.shape == (3, 200, 2)
    assert 0 <= points.min() < points.max() < 1
    distance = (points[:, :, 0] - 0.5).abs()
    assert (distance[:, :100] < 0.1).all()
    assert 0.1 < (distance[:, 100:] < 0.1).float().mean() < 0.3


@pytest.mark.parametrize("importance", [0.0, 1.0])
def test_count_whatever_the_shares(importance):
    assert uncertain_points(torch.zeros(2, 4, 4), 7, importance=importance).shape == (2, 7, 2)
