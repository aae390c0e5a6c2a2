"""Pixels and their neighbors at a distance: which there are, and how much alike they are.

Of P = size * size - 1 neighbors, those of index n and P - 1 - n lie opposite each other, so that every pair of pixels
is there twice, once from each of its ends.
"""

from types import EllipsisType

import torch

_Window = tuple[EllipsisType, slice, slice]


def neighbor_offsets(size: int = 3, dilation: int = 2) -> list[tuple[int, int]]:
    """(dy, dx) of the neighbors in a `size` x `size` window, row by row, without the center.

    Raises:
        ValueError: `size` is not odd, so that there is no center.
    """
    if size % 2 == 0:
        raise ValueError(f"a window of size={size} has no center; size must be odd")
    steps = [dilation * (step - size // 2) for step in range(size)]
    return [(dy, dx) for dy in steps for dx in steps if (dy, dx) != (0, 0)]


def pair_windows(offset: tuple[int, int], height: int, width: int) -> tuple[_Window, _Window]:
    """Where the pixels of a map lie that have a neighbor at `offset`, and where these neighbors lie.

    Returns:
        two indices into the last two axes of a (..., height, width) tensor; both windows are equally large, and empty
        if the map is too small.
    """
    rows, columns = (_pair_ranges(*axis) for axis in zip(offset, (height, width), strict=True))
    return (..., rows[0], columns[0]), (..., rows[1], columns[1])


def _pair_ranges(step: int, extent: int) -> tuple[slice, slice]:
    length = max(extent - abs(step), 0)
    first = min(abs(step), extent)
    near, far = slice(0, length), slice(first, first + length)
    return (near, far) if step >= 0 else (far, near)


@torch.no_grad()
def neighbor_similarity(
    values: torch.Tensor, valid: torch.Tensor, *, size: int = 3, dilation: int = 2, theta: float = 2.0
) -> torch.Tensor:
    """exp(-|v_i - v_j| / theta) of every pixel i and each of its neighbors j (BoxInst, arXiv:2012.02310).

    0 where the neighbor lies outside the map or is not valid; whether the pixel itself is valid does not matter.

    Args:
        values: (N, C, H, W), such as L*a*b* colors.
        valid: (N, H, W) bool.
        size: side of the window of neighbors.
        dilation: distance between neighbors, in pixels of the map.
        theta: how different two values are that count as alike to 1/e.

    Returns:
        (N, P, H, W) of the dtype of `values`, neighbors as in `neighbor_offsets`.
    """
    offsets = neighbor_offsets(size, dilation)
    result = values.new_zeros(len(values), len(offsets), *values.shape[2:])
    for index in range(len(offsets) // 2, len(offsets)):
        here, there = pair_windows(offsets[index], *values.shape[2:])
        distance = torch.linalg.vector_norm(values[here] - values[there], dim=1)
        alike = torch.exp(-distance / theta)
        result[:, index][here] = alike * valid[there]
        result[:, len(offsets) - 1 - index][there] = alike * valid[here]
    return result
