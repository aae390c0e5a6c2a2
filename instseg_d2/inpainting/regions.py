"""Regions of a clip that losses look at, and means over them."""

import torch

from .clips import dilate


def erode(masks: torch.Tensor, radius: int) -> torch.Tensor:
    """Shrink masks (..., H, W), float in {0, 1}, by `radius` pixels; beyond the image nothing eats at them."""
    return 1 - dilate(1 - masks, radius)


def contour_band(masks: torch.Tensor, width: int = 3) -> torch.Tensor:
    """The band along the outline of masks: dilation less erosion (the morphological gradient), `width` pixels wide.

    Args:
        masks: (..., H, W) float in {0, 1}.
        width: half of the band lies outside of the mask, rounded down, the rest inside.

    Returns:
        Float in {0, 1}, of the same shape.
    """
    outside = width // 2
    return dilate(masks, outside) - erode(masks, width - outside)


def region_mean(values: torch.Tensor, region: torch.Tensor) -> torch.Tensor:
    """Mean over a region's pixels in all items and channels together.

    Equals the mean of `values * region` divided by the mean of `region`, as STTN and ProPainter weigh their L1 losses.

    Args:
        values: (..., C, H, W).
        region: (..., 1, H, W), weights of 0 or more.

    Returns:
        A scalar; 0 with a graph where the region is empty.
    """
    region = region.to(values)
    return (values * region).sum() / (region.sum() * values.shape[-3]).clamp(min=1)


def enlarged_boxes(masks: torch.Tensor, scale: float = 1.5) -> torch.Tensor:
    """The box around each mask, enlarged about its middle, as a mask.

    Args:
        masks: (..., H, W) float in {0, 1}.
        scale: how much wider and higher the box is than the object.

    Returns:
        Float in {0, 1}, of the same shape; empty where the mask is.
    """
    rows, columns = (_enlarged_span(masks.amax(dim=axis), scale) for axis in (-1, -2))  # (..., H) and (..., W)
    return rows[..., :, None] * columns[..., None, :]


def _enlarged_span(line: torch.Tensor, scale: float) -> torch.Tensor:
    """From first to last one of each line (..., N), enlarged by `scale`, as a mask."""
    places = torch.arange(line.shape[-1], device=line.device, dtype=torch.float32)
    on = line > 0.5
    first = torch.where(on, places, torch.inf).amin(dim=-1, keepdim=True)
    last = torch.where(on, places, -torch.inf).amax(dim=-1, keepdim=True)
    more = (last - first + 1) * (scale - 1) / 2
    return ((places >= first - more) & (places <= last + more)).to(line.dtype)
