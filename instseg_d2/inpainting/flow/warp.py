"""Looking up images and flows along a flow: bilinear, in fp32, pixel centres on whole numbers.

Coordinates are pixels, x then y, and (0, 0) is the centre of the first pixel, as with `align_corners=True`.
"""

import torch
from torch.nn import functional as F


def pixel_grid(height: int, width: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """Coordinates of all pixels, (2, H, W) float32, x then y."""
    rows, columns = torch.meshgrid(
        torch.arange(height, device=device, dtype=torch.float32),
        torch.arange(width, device=device, dtype=torch.float32),
        indexing="ij",
    )
    return torch.stack([columns, rows])


def is_inside(points: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Whether points (N, 2, ...) lie between the centres of the first and last pixels: (N, 1, ...) bool."""
    x, y = points[:, :1], points[:, 1:]
    return (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)


def sample(images: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Read images at points; beyond the border the nearest pixel of the border goes on.

    Args:
        images: (N, C, H, W).
        points: (N, 2, h, w) pixels, x then y.

    Returns:
        (N, C, h, w) float32; gradients reach both arguments.
    """
    with torch.autocast(images.device.type, enabled=False):
        height, width = images.shape[-2:]
        steps = points.new_tensor([max(width - 1, 1), max(height - 1, 1)], dtype=torch.float32)
        grid = points.float().permute(0, 2, 3, 1) * (2 / steps) - 1
        return F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="border", align_corners=True)


def sample_at(
    maps: torch.Tensor, item: torch.Tensor, points: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Read maps at a list of points, exactly on whole coordinates.

    Args:
        maps: (N, C, H, W) float.
        item: (K,) int64, which of the N maps a point belongs to.
        points: (K, 2) float32 pixels, x then y, inside.
        weights: (N, 1, H, W) bool or float in [0, 1]; each of the four neighbours counts by its weight too. A point
            needs at least one neighbour whose weight and bilinear share exceed 0.

    Returns:
        (K, C) float32.
    """
    height, width = maps.shape[-2:]
    low = points.floor()
    share = points - low
    total = points.new_zeros(len(points), maps.shape[1])
    mass = points.new_zeros(len(points), 1)
    for right in (0, 1):
        for below in (0, 1):
            x = (low[:, 0].long() + right).clamp(max=width - 1)
            y = (low[:, 1].long() + below).clamp(max=height - 1)
            part = (share[:, :1] if right else 1 - share[:, :1]) * (share[:, 1:] if below else 1 - share[:, 1:])
            if weights is not None:
                part = part * weights[item, :, y, x]
            total += part * maps[item, :, y, x]
            mass += part
    return total if weights is None else total / mass


def warp(images: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    """Pull the images that a flow leads to back to where it starts.

    Args:
        images: (N, C, H, W), of the frame where the flow ends.
        flow: (N, 2, H, W) pixels.

    Returns:
        (N, C, H, W) float32: at each pixel p what the images show at p + flow(p); see `sample` beyond the border.
    """
    return sample(images, end_points(flow))


def end_points(flow: torch.Tensor) -> torch.Tensor:
    """Where each pixel goes: (N, 2, H, W) float32 pixels."""
    return pixel_grid(*flow.shape[-2:], device=flow.device) + flow.float()


def compose(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """The flow that follows `first` and then `second`; both and the result are (N, 2, H, W) pixels."""
    return first.float() + warp(second, first)


@torch.no_grad()
def cycle_error(flow: torch.Tensor, reverse: torch.Tensor) -> torch.Tensor:
    """How far from its start each pixel ends, there along `flow` and back along `reverse`; a check, without gradients.

    Args:
        flow: (N, 2, H, W) pixels, from frame a to frame b.
        reverse: same shape, from frame b to frame a.

    Returns:
        (N, 1, H, W) float32 pixels; infinite where the flow leaves the image.
    """
    # `norm` over two strided channels takes ten times as long.
    distance = torch.hypot(*compose(flow, reverse).split(1, dim=1))
    inside = is_inside(end_points(flow), *flow.shape[-2:])
    return distance.masked_fill(~inside, torch.inf)
