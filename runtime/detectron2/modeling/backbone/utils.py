"""Building blocks of transformer backbones: windows, positional embeddings, patches."""

import math

import torch
import torch.nn.functional as F
from torch import nn

__all__ = [
    "window_partition",
    "window_unpartition",
    "get_rel_pos",
    "add_decomposed_rel_pos",
    "get_abs_pos",
    "PatchEmbed",
]


def window_partition(x, window_size):
    """Cut a map of tokens into square windows, after zero padding at the bottom and the right.

    Args:
        x (Tensor): (B, H, W, C).
        window_size (int): side of a window.

    Returns:
        Tensor: (B * windows, window_size, window_size, C), row by row.
        tuple[int, int]: the padded height and width.
    """
    batch, height, width, channels = x.shape
    rows, columns = math.ceil(height / window_size), math.ceil(width / window_size)
    padded = (rows * window_size, columns * window_size)
    if padded != (height, width):
        x = F.pad(x, (0, 0, 0, padded[1] - width, 0, padded[0] - height))
    x = x.reshape(batch, rows, window_size, columns, window_size, channels).transpose(2, 3)
    return x.reshape(-1, window_size, window_size, channels), padded


def window_unpartition(windows, window_size, pad_hw, hw):
    """Undo :func:`window_partition`.

    Args:
        windows (Tensor): (B * windows, window_size, window_size, C).
        window_size (int): side of a window.
        pad_hw (tuple[int, int]): the padded height and width.
        hw (tuple[int, int]): height and width without padding.

    Returns:
        Tensor: (B, H, W, C).
    """
    rows, columns = (side // window_size for side in pad_hw)
    channels = windows.shape[-1]
    x = windows.reshape(-1, rows, columns, window_size, window_size, channels).transpose(2, 3)
    return x.reshape(-1, *pad_hw, channels)[:, : hw[0], : hw[1]].contiguous()


def get_rel_pos(q_size, k_size, rel_pos):
    """Look up the embedding of the distance of every query to every key along one axis.

    Args:
        q_size (int): number of query positions.
        k_size (int): number of key positions.
        rel_pos (Tensor): (L, C), embeddings of the distances; resized linearly if there are not
            2 * max(q_size, k_size) - 1.

    Returns:
        Tensor: (q_size, k_size, C).
    """
    count = 2 * max(q_size, k_size) - 1
    if len(rel_pos) != count:
        rel_pos = F.interpolate(rel_pos.t()[None], size=count, mode="linear")[0].t()
    # The shorter axis is stretched to the longer one, then distances are shifted to start at 0.
    q_step, k_step = max(k_size / q_size, 1.0), max(q_size / k_size, 1.0)
    distance = torch.arange(q_size)[:, None] * q_step - torch.arange(k_size) * k_step
    return rel_pos[(distance + (k_size - 1) * k_step).long()]


def add_decomposed_rel_pos(attn, q, rel_pos_h, rel_pos_w, q_size, k_size):
    """Add to attention logits a term for the vertical and one for the horizontal distance (arXiv:2112.01526).

    Args:
        attn (Tensor): (B, q_h * q_w, k_h * k_w) logits.
        q (Tensor): (B, q_h * q_w, C) queries.
        rel_pos_h (Tensor): (Lh, C) embeddings of vertical distances.
        rel_pos_w (Tensor): (Lw, C) embeddings of horizontal distances.
        q_size (tuple[int, int]): height and width of the query map.
        k_size (tuple[int, int]): height and width of the key map.

    Returns:
        Tensor: (B, q_h * q_w, k_h * k_w).
    """
    queries = q.unflatten(1, tuple(q_size))
    vertical = torch.einsum("byxc,ykc->byxk", queries, get_rel_pos(q_size[0], k_size[0], rel_pos_h))
    horizontal = torch.einsum("byxc,xkc->byxk", queries, get_rel_pos(q_size[1], k_size[1], rel_pos_w))
    logits = attn.view(len(q), *q_size, *k_size)
    return (logits + vertical[..., None] + horizontal[..., None, :]).view(attn.shape)


def get_abs_pos(abs_pos, has_cls_token, hw):
    """Absolute positional embeddings for a map of tokens, resized (bicubic) if they were trained for another size.

    Args:
        abs_pos (Tensor): (1, positions, C); the positions form a square.
        has_cls_token (bool): the first position is that of a class token, to be dropped.
        hw (tuple[int, int]): height and width of the map.

    Returns:
        Tensor: (1, H, W, C).
    """
    grid = abs_pos[:, 1:] if has_cls_token else abs_pos
    side = math.isqrt(grid.shape[1])
    assert side * side == grid.shape[1], f"{grid.shape[1]} positions do not form a square"
    grid = grid.reshape(1, side, side, -1)
    if tuple(hw) == (side, side):
        return grid
    resized = F.interpolate(grid.permute(0, 3, 1, 2), size=tuple(hw), mode="bicubic", align_corners=False)
    return resized.permute(0, 2, 3, 1)


class PatchEmbed(nn.Module):
    """Cut images into patches and project each to a vector: one convolution.

    Args:
        kernel_size (tuple[int, int]): size of a patch.
        stride (tuple[int, int]): step between patches.
        padding (tuple[int, int]): padding of the image.
        in_chans (int): channels of the image.
        embed_dim (int): length of the vectors.
    """

    def __init__(self, kernel_size=(16, 16), stride=(16, 16), padding=(0, 0), in_chans=3, embed_dim=768):
        super().__init__()
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size, stride, padding)

    def forward(self, x):
        """Map (N, in_chans, H, W) to (N, H', W', embed_dim)."""
        return self.proj(x).permute(0, 2, 3, 1)
