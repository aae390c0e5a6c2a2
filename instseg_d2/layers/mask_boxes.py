"""Boxes of masks."""

import torch


def _span(profile: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """First position that is set and the one after the last, (N,) each, of (N, L) bool."""
    positions = profile.to(torch.uint8)
    return positions.argmax(dim=1), profile.shape[1] - positions.flip(1).argmax(dim=1)


@torch.no_grad()
def tight_boxes(masks: torch.Tensor) -> torch.Tensor:
    """The smallest box around each mask, as detectron2's `BitMasks.get_bounding_boxes`, without a loop over masks.

    Args:
        masks: (N, H, W) bool.

    Returns:
        (N, 4) float32 xyxy in pixels, the right and lower edges behind the last pixel; zeros for an empty mask.
    """
    if masks.numel() == 0:
        return torch.zeros(len(masks), 4, device=masks.device)
    columns, rows = masks.any(dim=1), masks.any(dim=2)
    (left, right), (top, bottom) = _span(columns), _span(rows)
    boxes = torch.stack([left, top, right, bottom], dim=1).float()
    return boxes * columns.any(dim=1)[:, None]
