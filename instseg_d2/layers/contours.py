"""Contours of binary masks, on the device the masks are on."""

import torch
from torch.nn import functional as F


def _dilate(masks: torch.Tensor) -> torch.Tensor:
    """Grow (R, 1, H, W) maps by one pixel to the four sides; nothing comes in from beyond the border."""
    upright = F.max_pool2d(masks, (3, 1), stride=1, padding=(1, 0))
    return torch.maximum(upright, F.max_pool2d(masks, (1, 3), stride=1, padding=(0, 1)))


@torch.no_grad()
def mask_contours(masks: torch.Tensor) -> torch.Tensor:
    """Ring of one pixel outside and one inside along each mask's outline, in 4-connectivity.

    Dilation less erosion by a cross of 3x3, as BCNet's released code draws contours. What lies beyond the border
    counts as background for the dilation and as foreground for the erosion: no contour runs along the border itself,
    and maps of zeros or ones alone have none.

    Args:
        masks: (R, H, W), 0 or 1, any dtype.

    Returns:
        (R, H, W) float32, 0 or 1.
    """
    masks = masks[:, None].float()
    if len(masks) == 0:
        return masks[:, 0]
    return (_dilate(masks) + _dilate(1 - masks) - 1)[:, 0]
