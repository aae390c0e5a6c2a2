import math

import pytest
import torch

from instseg_d2.inpainting.shape.transformer import (
    MultiScaleAttention,
    SpaceTimeTransformer,
    TransformerLayer,
    from_tokens,
    to_tokens,
)


def num_parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameter_counts_of_the_paper_size():
    with torch.device("meta"):
        assert num_parameters(TransformerLayer()) == 1_967_616
        assert num_parameters(SpaceTimeTransformer()) == 8 * 1_967_616


@pytest.mark.parametrize(
    ("grid", "tokens", "dim"), [(1, 15, 414720), (3, 135, 46080), (6, 540, 11520), (12, 2160, 2880)]
)
def test_tokens_at_the_working_resolution(grid, tokens, dim):
    maps = torch.empty(1, 15, 64, 60, 108, device="meta")
    assert to_tokens(maps, grid).shape == (1, tokens, dim)


@pytest.mark.parametrize("grid", [1, 2, 4])
def test_tokens_are_patches(grid):
    maps = torch.randn(2, 3, 5, 8, 12)
    tokens = to_tokens(maps, grid)
    assert from_tokens(tokens, grid, maps.shape).equal(maps)
    height, width = 8 // grid, 12 // grid
    last = maps[1, 2, :, -height:, -width:]
    assert tokens[1, -1].equal(last.flatten())


def test_attention_against_the_formula():
    torch.manual_seed(0)
    attention = MultiScaleAttention(channels=4, grids=(1, 2)).double()
    maps = torch.randn(1, 3, 4, 4, 6, dtype=torch.float64)
    query, key, value = (
        layer(maps[0]) for layer in (attention.query, attention.key, attention.value)
    )  # (3, 4, 4, 6) each
    heads = []
    for index, grid in enumerate((1, 2)):
        patches = []
        for part in (query, key, value):
            part = part[:, 2 * index : 2 * index + 2]
            cut = [
                part[t, :, i * 4 // grid : (i + 1) * 4 // grid, j * 6 // grid : (j + 1) * 6 // grid].flatten()
                for t in range(3)
                for i in range(grid)
                for j in range(grid)
            ]
            patches.append(torch.stack(cut))
        q, k, v = patches
        mixed = (q @ k.T / math.sqrt(q.shape[1])).softmax(dim=1) @ v
        head = torch.zeros(3, 2, 4, 6, dtype=torch.float64)
        for n, row in enumerate(mixed):
            t, i, j = n // grid**2, n % grid**2 // grid, n % grid
            h, w = 4 // grid, 6 // grid
            head[t, :, i * h : (i + 1) * h, j * w : (j + 1) * w] = row.view(2, h, w)
        heads.append(head)
    torch.testing.assert_close(attention(maps)[0], attention.merge(torch.cat(heads, dim=1)))


def test_all_frames_see_each_other_but_clips_do_not():
    torch.manual_seed(0)
    transformer = SpaceTimeTransformer(channels=8, num_layers=1, grids=(1, 2))
    maps = torch.randn(2, 4, 8, 4, 4, requires_grad=True)
    transformer(maps)[0, 0].sum().backward()
    reached = maps.grad.abs().amax(dim=(2, 3, 4)) > 0
    assert reached.tolist() == [[True] * 4, [False] * 4]
    order = torch.tensor([1, 0])
    torch.testing.assert_close(transformer(maps[order]), transformer(maps)[order])


def test_attention_does_not_overflow_in_half_precision():
    attention = MultiScaleAttention(channels=2, grids=(1,))
    maps = torch.full((1, 2, 2, 32, 32), 60.0)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.float16):
        assert attention(maps).isfinite().all()


def test_heads_share_the_channels():
    with pytest.raises(ValueError, match="channels=8 must be a multiple"):
        MultiScaleAttention(channels=8, grids=(1, 2, 4))
