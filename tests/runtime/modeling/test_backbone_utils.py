"""Windows and positional embeddings of transformer backbones."""

import pytest
import torch
from detectron2.modeling.backbone.utils import (
    PatchEmbed,
    add_decomposed_rel_pos,
    get_abs_pos,
    get_rel_pos,
    window_partition,
    window_unpartition,
)


@pytest.mark.parametrize("hw", [(8, 12), (7, 9), (3, 2)])
def test_windows_there_and_back(hw):
    x = torch.randn(2, *hw, 3)
    windows, padded = window_partition(x, 4)
    assert all(side % 4 == 0 and 0 <= side - given < 4 for side, given in zip(padded, hw, strict=True))
    assert windows.shape == (2 * padded[0] * padded[1] // 16, 4, 4, 3)
    assert windows.sum() == pytest.approx(x.sum().item(), abs=1e-3)
    assert torch.equal(window_unpartition(windows, 4, padded, hw), x)


def test_relative_positions_are_looked_up_by_distance():
    table = torch.arange(5.0)[:, None]
    assert get_rel_pos(3, 3, table)[..., 0].tolist() == [[2, 1, 0], [3, 2, 1], [4, 3, 2]]
    # Two keys stretched over four queries.
    table = torch.arange(7.0)[:, None]
    assert get_rel_pos(4, 2, table)[..., 0].tolist() == [[2, 0], [3, 1], [4, 2], [5, 3]]
    # A table for another size is resized linearly.
    assert get_rel_pos(2, 2, torch.tensor([[0.0], [6.0]]))[..., 0].tolist() == [[3, 0], [6, 3]]


def test_decomposed_relative_positions_by_loops():
    torch.manual_seed(0)
    q_size, k_size, channels = (2, 3), (2, 3), 4
    attn, q = torch.randn(2, 6, 6), torch.randn(2, 6, channels)
    rel_h, rel_w = torch.randn(3, channels), torch.randn(5, channels)
    expected = attn.clone()
    for b in range(2):
        for i in range(6):
            for j in range(6):
                dy, dx = i // 3 - j // 3, i % 3 - j % 3
                expected[b, i, j] += q[b, i] @ rel_h[dy + 1] + q[b, i] @ rel_w[dx + 2]
    torch.testing.assert_close(add_decomposed_rel_pos(attn, q, rel_h, rel_w, q_size, k_size), expected)


def test_absolute_positions():
    pos = torch.randn(1, 17, 2)
    assert torch.equal(get_abs_pos(pos, True, (4, 4)), pos[:, 1:].view(1, 4, 4, 2))
    assert get_abs_pos(pos[:, 1:], False, (6, 3)).shape == (1, 6, 3, 2)
    flat = torch.full((1, 4, 2), 3.0)
    torch.testing.assert_close(get_abs_pos(flat, False, (5, 7)), torch.full((1, 5, 7, 2), 3.0))
    with pytest.raises(AssertionError):
        get_abs_pos(pos, False, (4, 4))


def test_patches_are_channels_last():
    embed = PatchEmbed(kernel_size=(4, 4), stride=(4, 4), in_chans=2, embed_dim=5)
    x = torch.randn(1, 2, 8, 12)
    patches = embed(x)
    assert patches.shape == (1, 2, 3, 5)
    expected = (embed.proj.weight * x[:, :, 4:, 8:]).sum((1, 2, 3)) + embed.proj.bias
    torch.testing.assert_close(patches[0, 1, 2], expected)
