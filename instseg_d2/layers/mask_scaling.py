"""Masks of whole images brought to the coarse grid of a feature map, and back, without half a pixel of shift."""

from collections.abc import Callable

import torch
from torch.nn import functional as F


@torch.no_grad()
def shrink_masks(masks: torch.Tensor, *, stride: int, size: tuple[int, int]) -> torch.Tensor:
    """Bring masks to a feature map of the image.

    A cell is foreground if at least two of the four pixels around its middle are: the bilinear value there, rounded
    half up. Nothing is computed in floats.

    Args:
        masks: (N, H, W) bool.
        stride: of the feature map in pixels, even.
        size: (height, width) of the feature map; what of it lies beyond the masks is background.

    Returns:
        (N, *size) bool.
    """
    counts = torch.zeros(len(masks), *size, dtype=torch.uint8, device=masks.device)
    middle = (stride // 2 - 1, stride // 2)
    for top in middle:
        for left in middle:
            pixels = masks[:, top::stride, left::stride][:, : size[0], : size[1]]
            counts[:, : pixels.shape[1], : pixels.shape[2]] += pixels
    return counts >= 2


def bilinear(x: torch.Tensor, factor: int) -> torch.Tensor:
    """Upsample (N, C, H, W) by a factor; pixels of the result lie evenly inside of those of the input."""
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


@torch.no_grad()
def enlarge_masks(
    probabilities: torch.Tensor,
    *,
    stride: int,
    image_size: tuple[int, int],
    output_size: tuple[int, int],
    threshold: float = 0.5,
    upsample: Callable[[torch.Tensor, int], torch.Tensor] = bilinear,
    max_elements: int = 2**24,
) -> torch.Tensor:
    """Bring masks from a feature map to an image: upsampled to the pixels of the input, cut, bilinear to the output.

    The memory for floats stays bounded, however many masks there are.

    Args:
        probabilities: (N, h, w), over the padded input.
        stride: of the feature map in pixels of the input.
        image_size: (height, width) of the input without its padding.
        output_size: (height, width) of the result.
        threshold: foreground is what lies above it.
        upsample: from the feature map to the pixels of the input, by `stride`; `upsample.aligned_bilinear` where the
            map's points are FCOS's locations.
        max_elements: of the largest map that is held in between; one mask may exceed it.

    Returns:
        (N, *output_size) bool.
    """
    count, height, width = probabilities.shape
    masks = torch.empty(count, *output_size, dtype=torch.bool, device=probabilities.device)
    at_a_time = max(max_elements // max(height * width * stride**2, output_size[0] * output_size[1], 1), 1)
    for start in range(0, count, at_a_time):
        part = upsample(probabilities[start : start + at_a_time, None].float(), stride)
        part = part[:, :, : image_size[0], : image_size[1]]
        if tuple(image_size) != tuple(output_size):
            part = F.interpolate(part, size=tuple(output_size), mode="bilinear", align_corners=False)
        torch.gt(part[:, 0], threshold, out=masks[start : start + at_a_time])
    return masks
