import pytest
import torch

from instseg_d2.layers.deformable_attention import DeformableAttention, cell_centers, sample_levels

SIZES = [(2, 3), (4, 6)]
CELLS = 30


def inputs(seed=0, dtype=torch.float64):
    """N = 2, Q = 3, M = 2, D = 2, L = 2, P = 2; some points lie beyond the border."""
    rng = torch.Generator().manual_seed(seed)
    values = torch.randn(2, CELLS, 2, 2, generator=rng, dtype=dtype)
    locations = torch.rand(2, 3, 2, 2, 2, 2, generator=rng, dtype=dtype) * 1.2 - 0.1
    weights = torch.rand(2, 3, 2, 2, 2, generator=rng, dtype=dtype)
    return values, locations, weights


def bilinear(level, x, y):
    """Value of a (h, w, D) map in pixels, the middle of the first at 0.5; 0 beyond the border."""
    height, width, _ = level.shape
    total = torch.zeros(level.shape[2], dtype=level.dtype)
    left, top = int((x - 0.5) // 1), int((y - 0.5) // 1)
    for row in (top, top + 1):
        for column in (left, left + 1):
            if 0 <= row < height and 0 <= column < width:
                share = (1 - abs(x - 0.5 - column)) * (1 - abs(y - 0.5 - row))
                total += share * level[row, column]
    return total


def test_sum_over_levels_and_points_one_by_one():
    values, locations, weights = inputs()
    expected = torch.zeros(2, 3, 2, 2, dtype=values.dtype)
    for n, q, m, level, p in torch.cartesian_prod(*(torch.arange(k) for k in (2, 3, 2, 2, 2))).tolist():
        height, width = SIZES[level]
        start = 0 if level == 0 else 6
        own = values[n, start : start + height * width, m].view(height, width, 2)
        x, y = locations[n, q, m, level, p].tolist()
        expected[n, q, m] += weights[n, q, m, level, p] * bilinear(own, x * width, y * height)
    torch.testing.assert_close(sample_levels(values, SIZES, locations, weights), expected.flatten(2))


def test_gradients():
    values, locations, weights = (x.requires_grad_() for x in inputs())
    assert torch.autograd.gradcheck(lambda *x: sample_levels(x[0], SIZES, *x[1:]), (values, locations, weights))


def test_centers_of_cells_find_their_own_values():
    values = torch.randn(1, CELLS, 1, 4)
    centers = cell_centers(SIZES)
    assert centers.shape == (CELLS, 2)
    assert centers[0].tolist() == pytest.approx([1 / 6, 1 / 4])
    for level, cells in enumerate((slice(0, 6), slice(6, 30))):
        weights = torch.zeros(1, CELLS, 1, 2, 1)
        weights[:, :, :, level] = 1
        found = sample_levels(values, SIZES, centers[None, :, None, None, None].expand(1, -1, 1, 2, 1, -1), weights)
        torch.testing.assert_close(found[:, cells], values[:, cells, 0])


def test_heads_look_along_rays_before_training():
    layer = DeformableAttention(channels=8, num_levels=2, num_heads=4, num_points=3)
    offsets = layer.offsets.bias.view(4, 2, 3, 2)
    assert torch.equal(offsets[:, 0], offsets[:, 1])
    steps = torch.tensor([1.0, 2.0, 3.0])[:, None]
    for head, direction in enumerate([(1, 0), (0, 1), (-1, 0), (0, -1)]):
        torch.testing.assert_close(offsets[head, 0], steps * torch.tensor(direction), atol=1e-6, rtol=0)


def test_layer_by_hand():
    """One head that looks one cell to the right on both levels, with equal weights; values pass as they are."""
    layer = DeformableAttention(channels=4, num_levels=2, num_heads=1, num_points=1)
    with torch.no_grad():
        layer.values.weight.copy_(torch.eye(4))
        layer.output.weight.copy_(torch.eye(4))
    features = torch.randn(2, CELLS, 4)
    result = layer(torch.randn(2, CELLS, 4), cell_centers(SIZES), features, SIZES)
    coarse, fine = features[:, :6].view(2, 2, 3, 4), features[:, 6:].view(2, 4, 6, 4)
    # The first cell of the coarse level is at a corner of four fine ones; one to the right is the next corner but one.
    expected = (coarse[:, 0, 1] + fine[:, :2, 1:3].mean(dim=(1, 2))) / 2
    torch.testing.assert_close(result[:, 0], expected)
    # The last column looks beyond the border.
    fine_alone = (fine[:, 1, 4] * 0).expand(2, 4)
    torch.testing.assert_close(result[:, 2], fine_alone + fine[:, :2, 5].mean(dim=1) / 2 / 2)


def test_channels_are_divided_among_the_heads():
    with pytest.raises(ValueError, match="channels=10"):
        DeformableAttention(channels=10, num_levels=1, num_heads=4, num_points=1)
