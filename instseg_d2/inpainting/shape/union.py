"""The complete shape of an object without a network: what other frames show of it, moved along its flow."""

import cv2
import numpy as np
import torch

from ..clips import away_from_hole
from ..flow.harmonic import HOLE_MARGIN, harmonic_fill


@torch.no_grad()
def flow_aligned_union(
    visible: torch.Tensor,
    occluders: torch.Tensor,
    forward_flow: torch.Tensor,
    backward_flow: torch.Tensor,
    *,
    reach: int = 16,
) -> torch.Tensor:
    """Carry visible masks from frame to frame, both ways, and keep what lands behind an occluder.

    Behind the occluder the object moves as smoothly as its visible pixels say (`harmonic_fill`), or as in the last
    frame that showed it. A baseline: it knows what other frames show, and errors of the flow add up.

    Args:
        visible: (B, T, 1, H, W) float in {0, 1}.
        occluders: (B, T, 1, H, W) float in {0, 1}, where the object may be hidden.
        forward_flow: (B, T - 1, 2, H, W) observed flow, pixels.
        backward_flow: (B, T - 1, 2, H, W), the same in the other direction.
        reach: pixels by which the object's parts may move apart from its middle between two frames.

    Returns:
        (B, T, 1, H, W) float in {0, 1}, which contains `visible` and, beyond it, only pixels of occluders.
    """
    behind = (occluders * (1 - visible) > 0.5)[:, :, 0].cpu().numpy()
    seen = (visible > 0.5)[:, :, 0].cpu().numpy()
    clear = away_from_hole(visible, torch.maximum(visible, occluders), HOLE_MARGIN)[:, :, 0].cpu().numpy() > 0.5
    flows = [np.moveaxis(flow.detach().float().cpu().numpy(), 2, -1) for flow in (forward_flow, backward_flow)]
    union = seen.copy()
    for item in range(len(seen)):
        # The mask of frame t is looked up in frame t - 1, where the backward flow leads.
        later = _carry(seen[item], clear[item], behind[item], flows[1][item], reach)
        earlier = _carry(*(part[item][::-1] for part in (seen, clear, behind, flows[0])), reach)
        union[item] = later | earlier[::-1]
    return torch.from_numpy(union[:, :, None]).to(visible)


def _carry(seen: np.ndarray, clear: np.ndarray, behind: np.ndarray, flow: np.ndarray, reach: int) -> np.ndarray:
    """(T, H, W) bool: visible masks and what the frames before say of the hidden part.

    Args:
        seen: (T, H, W) bool, the visible mask.
        clear: (T, H, W) bool, its pixels away from occluders.
        behind: (T, H, W) bool, where it may be hidden.
        flow: (T - 1, H, W, 2), entry t leads from frame t + 1 to frame t.
        reach: see `flow_aligned_union`.
    """
    union = seen.copy()
    motion = np.zeros(2, dtype=np.float32)
    near = cv2.getStructuringElement(cv2.MORPH_RECT, (2 * reach + 1, 2 * reach + 1))
    for time in range(1, len(seen)):
        known = clear[time] if clear[time].any() else seen[time]
        if known.any():
            # Parts may move on their own, or their flow be wrong: the median is what most of the object does.
            motion = np.median(flow[time - 1][known], axis=0)
        before = union[time - 1]
        moved = cv2.warpAffine(
            before.astype(np.uint8), np.float32([[1, 0, -motion[0]], [0, 1, -motion[1]]]), before.shape[::-1]
        )
        candidates = behind[time] & (cv2.dilate(moved, near) > 0)
        steady = np.broadcast_to(motion, flow[time - 1].shape)
        values = harmonic_fill(flow[time - 1], known, seen[time] | candidates) if known.any() else steady
        union[time] |= candidates & _looked_up(before, values)
    return union


def _looked_up(mask: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """(H, W) bool: whether each pixel's flow (H, W, 2) leads into a mask (H, W) bool."""
    rows, columns = np.indices(mask.shape, dtype=np.float32)
    found = cv2.remap(mask.astype(np.uint8), columns + flow[..., 0], rows + flow[..., 1], cv2.INTER_NEAREST)
    return found > 0
