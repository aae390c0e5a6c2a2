"""Upsampling of maps that keeps to the grid of their locations."""

import torch
from torch.nn import functional as F


def aligned_bilinear(x: torch.Tensor, factor: int) -> torch.Tensor:
    """Upsample so that locations keep their values: CondInst's alignment, which its weights are trained for.

    Index j of the result reads the input at (j - factor // 2) / factor; beyond the border its edge goes on. So a map
    of stride s, upsampled by s, has at pixel s // 2 + s * i, where FCOS has its locations, the value of index i.
    `interpolate(align_corners=False)` reads half a pixel of the result beside it when the factor is even.

    Args:
        x: (N, C, H, W).
        factor: 1 or more.

    Returns:
        (N, C, factor * H, factor * W).
    """
    if factor == 1:
        return x
    height, width = x.shape[2:]
    # With a repeated edge on all sides, corners that are aligned give steps of exactly 1 / factor from index -1 on.
    x = F.pad(x, (1, 1, 1, 1), mode="replicate")
    size = (factor * (height + 1) + 1, factor * (width + 1) + 1)
    x = F.interpolate(x, size=size, mode="bilinear", align_corners=True)
    start = factor - factor // 2
    return x[:, :, start : start + factor * height, start : start + factor * width]


def resize_masks(
    probabilities: torch.Tensor,
    factor: int,
    image_size: tuple[int, int],
    output_size: tuple[int, int],
    *,
    threshold: float = 0.5,
    max_elements: int = 2**25,
) -> torch.Tensor:
    """Bring the masks of a whole image to the size of the output, a few of them at a time.

    Args:
        probabilities: (R, H, W), maps of a padded image.
        factor: the padded image is larger by it.
        image_size: (height, width) of the image without padding.
        output_size: (height, width) of the result.
        threshold: on probabilities; what exceeds it is foreground.
        max_elements: of the largest map that is held in between; one mask may exceed it.

    Returns:
        (R, *output_size) bool.
    """
    height, width = image_size
    largest = max(factor**2 * probabilities[0].numel() if len(probabilities) else 1, output_size[0] * output_size[1], 1)
    masks = torch.zeros(len(probabilities), *output_size, dtype=torch.bool, device=probabilities.device)
    step = max(max_elements // largest, 1)
    for start in range(0, len(probabilities), step):
        part = aligned_bilinear(probabilities[start : start + step, None], factor)[:, :, :height, :width]
        if tuple(image_size) != tuple(output_size):
            part = F.interpolate(part, size=tuple(output_size), mode="bilinear", align_corners=False)
        masks[start : start + step] = part[:, 0] > threshold
    return masks
