"""Flow behind an occluder without a network: as smooth as can be inside the object, from its visible pixels alone."""

import cv2
import numpy as np
import torch
from scipy import sparse
from scipy.sparse.linalg import splu

from ..clips import away_from_hole, check_clip
from .warp import cycle_error

# How far the occluder's motion reaches into the object's visible part, pixels: half a patch of DIS.
HOLE_MARGIN = 4
# Less than the propagation's 5 px: one wrong vector beside the hole misleads all of it.
MAX_CYCLE_ERROR = 2.0


def harmonic_fill(values: np.ndarray, known: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Solve Laplace's equation for the unknown pixels of a region.

    An unknown pixel gets the mean of its neighbours (left, right, above, below) in the region. What lies outside of the
    region has no say, so nothing is smoothed across its contour. A part of the region that no known pixel reaches gets
    the mean of all known ones.

    Args:
        values: (H, W, C) float.
        known: (H, W) bool; values elsewhere are ignored.
        region: (H, W) bool.

    Returns:
        (H, W, C) float32, `values` with the unknown pixels of the region replaced; without known pixels in the region,
        `values` as they are.
    """
    filled = values.astype(np.float32)
    known = known & region
    unknown = region & ~known
    if not known.any() or not unknown.any():
        return filled
    _, parts = cv2.connectedComponents(region.astype(np.uint8), connectivity=4)
    lost = unknown & ~np.isin(parts, np.unique(parts[known]))
    filled[lost] = values[known].mean(axis=0)
    unknown &= ~lost
    if unknown.any():
        top, left, bottom, right = _box_around(unknown)
        window = np.s_[top:bottom, left:right]
        filled[window][unknown[window]] = _solve(values[window], known[window], unknown[window])
    return filled


def _box_around(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Top, left, bottom and right (exclusive) of a mask and the pixels beside it."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return max(rows[0] - 1, 0), max(columns[0] - 1, 0), rows[-1] + 2, columns[-1] + 2


def _neighbours(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Flat indices of all pixels and, for each, of one of its neighbours: every pair twice, once each way."""
    index = np.arange(height * width).reshape(height, width)
    first = np.concatenate([index[:, :-1].ravel(), index[:-1].ravel()])
    second = np.concatenate([index[:, 1:].ravel(), index[1:].ravel()])
    return np.concatenate([first, second]), np.concatenate([second, first])


def _solve(values: np.ndarray, known: np.ndarray, unknown: np.ndarray) -> np.ndarray:
    """Values of the unknown pixels, (U, C), in the order of `values[unknown]`."""
    count, channels = int(unknown.sum()), values.shape[2]
    number = np.full(unknown.size, -1)
    number[unknown.ravel()] = np.arange(count)
    pixel, beside = _neighbours(*unknown.shape)
    start, end = number[pixel], number[beside]
    inner = (start >= 0) & (end >= 0)
    border = (start >= 0) & known.ravel()[beside]
    degree = np.bincount(start[inner | border], minlength=count).astype(float)
    links = sparse.coo_matrix((np.ones(inner.sum()), (start[inner], end[inner])), shape=(count, count))
    right_side = np.zeros((count, channels))
    np.add.at(right_side, start[border], values.reshape(-1, channels)[beside[border]])
    # Symmetric and positive definite: a minimum-degree order of A + A' and no pivoting keep the factor sparse.
    factor = splu(
        (sparse.diags(degree) - links).tocsc(),
        permc_spec="MMD_AT_PLUS_A",
        diag_pivot_thresh=0.0,
        options={"SymmetricMode": True},
    )
    return factor.solve(right_side)


def harmonic_flow(
    forward: torch.Tensor,
    backward: torch.Tensor,
    visible: torch.Tensor,
    complete: torch.Tensor,
    *,
    hole_margin: int = HOLE_MARGIN,
    max_cycle_error: float | None = MAX_CYCLE_ERROR,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Replace the flow of an object's hidden part by a smooth one, from its visible pixels alone.

    A frame that shows nothing of the object takes the object's mean motion of the nearest frames that do,
    interpolated in time. Outside of the complete masks nothing changes.

    Args:
        forward: (B, T - 1, 2, H, W) observed flow, pixels.
        backward: (B, T - 1, 2, H, W), the same in the other direction.
        visible: (B, T, 1, H, W) float in {0, 1}.
        complete: (B, T, 1, H, W) float in {0, 1}.
        hole_margin: visible pixels so near to the hole, in pixels, count as hidden: the occluder's motion reaches them.
        max_cycle_error: visible pixels whose flow, there and back, misses its start by this much or more, in pixels,
            count as hidden: their flow is wrong. None: all are believed.

    Returns:
        The completed forward and backward flow, float32, of the same shapes and on the same device.
    """
    with torch.no_grad():
        clear = away_from_hole(visible, complete, hole_margin)
        if max_cycle_error is not None:
            clear = _first_of(clear * _consistent(forward, backward, max_cycle_error), clear)
        # An object of which no clear pixel is seen has nothing better than what is seen.
        clear = _first_of(clear, visible)
        known, region = ((masks[:, :, 0] > 0.5).cpu().numpy() for masks in (clear, complete))
        flows = [np.moveaxis(flow.detach().float().cpu().numpy(), 2, -1).copy() for flow in (forward, backward)]
        for item in range(len(known)):
            _fill_clip(flows[0][item], flows[1][item], known[item], region[item])
        forward, backward = (torch.from_numpy(np.moveaxis(flow, -1, 2)).to(visible.device) for flow in flows)
    return forward.contiguous(), backward.contiguous()


class HarmonicCompletion:
    """`harmonic_flow` with the arguments of every flow completion, the network's too.

    Args:
        hole_margin: see `harmonic_flow`.
        max_cycle_error: see `harmonic_flow`.
    """

    def __init__(self, *, hole_margin: int = HOLE_MARGIN, max_cycle_error: float | None = MAX_CYCLE_ERROR):
        self.hole_margin = hole_margin
        self.max_cycle_error = max_cycle_error

    def __call__(
        self,
        frames: torch.Tensor,
        visible: torch.Tensor,
        complete: torch.Tensor,
        forward_flow: torch.Tensor,
        backward_flow: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Complete the flows of a clip.

        Args:
            frames: (B, T, 3, H, W); their shape is checked, and they are not looked at.
            visible: (B, T, 1, H, W) float in {0, 1}.
            complete: (B, T, 1, H, W) float in {0, 1}.
            forward_flow: (B, T - 1, 2, H, W) observed flow, pixels.
            backward_flow: (B, T - 1, 2, H, W), the same in the other direction.

        Returns:
            The completed forward and backward flow, float32.

        Raises:
            InpaintingError: the parts do not fit each other.
        """
        check_clip(frames, visible=visible, complete=complete, forward_flow=forward_flow, backward_flow=backward_flow)
        return harmonic_flow(
            forward_flow,
            backward_flow,
            visible,
            complete,
            hole_margin=self.hole_margin,
            max_cycle_error=self.max_cycle_error,
        )


def _first_of(best: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Masks (B, T, 1, H, W): those of `best`, but those of `other` in the frames where `best` is empty."""
    return torch.where(best.flatten(2).any(dim=2)[..., None, None, None], best, other)


def _consistent(forward: torch.Tensor, backward: torch.Tensor, limit: float) -> torch.Tensor:
    """(B, T, 1, H, W) bool: the pixels from which both flows that start there lead back to their start."""
    batch, pairs, _, height, width = forward.shape
    good = torch.ones(batch, pairs + 1, 1, height, width, dtype=torch.bool, device=forward.device)
    for pair in range(pairs):
        good[:, pair] &= cycle_error(forward[:, pair], backward[:, pair]) < limit
        good[:, pair + 1] &= cycle_error(backward[:, pair], forward[:, pair]) < limit
    return good


def _fill_clip(forward: np.ndarray, backward: np.ndarray, known: np.ndarray, region: np.ndarray) -> None:
    """Complete both flows (T - 1, H, W, 2) of one clip, in place; masks are (T, H, W) bool."""
    for frame in range(len(known)):
        # Both flows that start in a frame have the same unknown pixels: one factorization serves both.
        starting = [flow[at] for flow, at in ((forward, frame), (backward, frame - 1)) if 0 <= at < len(flow)]
        if starting:
            filled = harmonic_fill(np.concatenate(starting, axis=2), known[frame], region[frame])
            for number, flow in enumerate(starting):
                flow[...] = filled[..., 2 * number : 2 * number + 2]
    known = known & region
    _bridge(forward, known[:-1], region[:-1])
    _bridge(backward, known[1:], region[1:])


def _bridge(flow: np.ndarray, known: np.ndarray, region: np.ndarray) -> None:
    """Give frames without a known pixel the mean motion of those around them, in place."""
    seen = known.any(axis=(1, 2))
    times = np.flatnonzero(seen)
    if not times.size:
        return
    motion = np.stack([flow[time][known[time]].mean(axis=0) for time in times])
    for time in np.flatnonzero(~seen):
        flow[time][region[time]] = [np.interp(time, times, motion[:, axis]) for axis in (0, 1)]
