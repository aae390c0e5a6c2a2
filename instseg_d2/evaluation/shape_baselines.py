"""Complete masks without a network, to print beside those of one: the least that shape completion must beat."""

import cv2
import numpy as np
import torch

from instseg_d2.inpainting.shape.union import flow_aligned_union


def convex_hulls(visible: torch.Tensor) -> torch.Tensor:
    """The convex hull of each mask, empty where it is.

    Args:
        visible: (..., H, W) float in {0, 1}.

    Returns:
        Float in {0, 1}, of the same shape; contains `visible`.
    """
    planes = (visible > 0.5).reshape(-1, *visible.shape[-2:]).cpu().numpy().astype(np.uint8)
    for plane in planes:
        points = cv2.findNonZero(plane)
        if points is not None:
            cv2.fillConvexPoly(plane, cv2.convexHull(points), 1)
    return torch.from_numpy(planes).to(visible).reshape(visible.shape)


def shape_baselines(
    visible: torch.Tensor, occluders: torch.Tensor, forward_flow: torch.Tensor, backward_flow: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Complete masks by rule: what is seen, its convex hull, and what other frames show.

    Args:
        visible: (B, T, 1, H, W) float in {0, 1}.
        occluders: (B, T, 1, H, W) float in {0, 1}, for the union alone; see `flow_aligned_union`.
        forward_flow: (B, T - 1, 2, H, W) observed flow, pixels.
        backward_flow: the same in the other direction.

    Returns:
        (B, T, 1, H, W) float in {0, 1} by the names `visible`, `convex hull` and `flow-aligned union`.
    """
    return {
        "visible": visible,
        "convex hull": convex_hulls(visible),
        "flow-aligned union": flow_aligned_union(visible, occluders, forward_flow, backward_flow),
    }
