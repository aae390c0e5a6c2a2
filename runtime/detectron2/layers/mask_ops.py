"""Pasting of small instance masks into images."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

BYTES_PER_FLOAT = 4
# What one round of pasting on an accelerator may allocate beside the result.
GPU_MEM_LIMIT = 1024**3
# Pixels interpolated at a time on the CPU: their floats stay in the second-level cache.
_BLOCK_PIXELS = 2**17


@torch.no_grad()
def paste_masks_in_image(
    masks: torch.Tensor, boxes: torch.Tensor, image_shape: tuple[int, int], threshold: float = 0.5
) -> torch.Tensor:
    """Resample each mask to its box in the image, bilinearly, and binarise.

    A pixel's value is that of the mask at the pixel's centre; beyond its border a mask fades to zero within half a
    cell. On the CPU only the pixels of a box (and one around it) are looked at, also if `threshold` is 0.

    Args:
        masks: (N, M, M), probabilities, or bool. Half precision is computed in float32.
        boxes: (N, 4) xyxy in pixels, or Boxes. They may reach out of the image; boxes without area, or with
            coordinates that are not finite, give an empty mask.
        image_shape: (height, width).
        threshold: foreground is at least this value. A negative one keeps the values, scaled to 0..255.

    Returns:
        (N, height, width) bool on the device of `boxes`; uint8 for a negative threshold or without masks.
    """
    assert masks.shape[-1] == masks.shape[-2], f"masks must be square, got {tuple(masks.shape)}"
    height, width = (int(side) for side in image_shape)
    if len(masks) == 0:
        return masks.new_empty((0, height, width), dtype=torch.uint8)
    if not isinstance(boxes, torch.Tensor):
        boxes = boxes.tensor
    assert len(boxes) == len(masks), f"{len(boxes)} boxes for {len(masks)} masks"
    if masks.dtype != torch.float64:
        masks = masks.float()
    paste = _paste_per_box if boxes.device.type == "cpu" else _paste_in_chunks
    return paste(masks, boxes, height, width, threshold)


def _paste_in_chunks(
    masks: torch.Tensor, boxes: torch.Tensor, height: int, width: int, threshold: float
) -> torch.Tensor:
    """Interpolate whole images, as many at a time as the memory limit allows."""
    # Per pixel: two grid coordinates and a value.
    chunk = max(1, GPU_MEM_LIMIT // max(1, 3 * BYTES_PER_FLOAT * height * width))
    pasted = torch.empty(len(masks), height, width, dtype=_result_dtype(threshold), device=boxes.device)
    x = torch.arange(width, device=boxes.device)
    y = torch.arange(height, device=boxes.device)[:, None]
    for start in range(0, len(masks), chunk):
        part = slice(start, start + chunk)
        _finish(_interpolate(masks[part], boxes[part], x, y), threshold, pasted[part])
    return pasted


def _paste_per_box(masks: torch.Tensor, boxes: torch.Tensor, height: int, width: int, threshold: float) -> torch.Tensor:
    """Interpolate each mask at the pixels of its box."""
    # Not NumPy's zeros: those ask for huge pages, which may take the system longer to find than all the rest.
    pasted = torch.zeros(len(masks), height, width, dtype=_result_dtype(threshold))
    result = pasted.numpy()
    peak = masks.abs().max().item()
    separable = threshold >= 0 and masks.dtype == torch.float32 and np.isfinite(peak)
    painter = _SeparablePainter(masks.shape[-1], width, peak, threshold) if separable else None
    for mask, box, canvas, pixels in zip(masks, boxes, pasted, result, strict=True):
        region = _pixels_around(box.tolist(), height, width)
        if region is None:
            continue
        rows, columns = region
        if painter is not None:
            painter.paint(mask, box, rows, columns, pixels[rows, columns])
        else:
            x = torch.arange(columns.start, columns.stop)
            y = torch.arange(rows.start, rows.stop)[:, None]
            _finish(_interpolate(mask[None], box[None], x, y)[0], threshold, canvas[rows, columns])
    return pasted


def _pixels_around(box: list[float], height: int, width: int) -> tuple[slice, slice] | None:
    """Rows and columns of the image that a mask in `box` can touch; None if there are none."""
    x0, y0, x1, y1 = box
    if not all(map(math.isfinite, box)) or x0 == x1 or y0 == y1:
        return None
    rows = slice(max(math.floor(y0) - 1, 0), min(math.ceil(y1) + 1, height))
    columns = slice(max(math.floor(x0) - 1, 0), min(math.ceil(x1) + 1, width))
    return (rows, columns) if rows.start < rows.stop and columns.start < columns.stop else None


def _interpolate(masks: torch.Tensor, boxes: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Values (n, h, w) of masks (n, M, M) at pixels whose indices x, y broadcast to (h, w)."""
    x0, y0, x1, y1 = boxes[:, :, None, None].unbind(1)
    # -1 and 1 are the outer edges of the mask.
    u = (x + 0.5 - x0) / (x1 - x0) * 2 - 1
    v = (y + 0.5 - y0) / (y1 - y0) * 2 - 1
    grid = torch.stack(torch.broadcast_tensors(u, v), dim=-1)
    return F.grid_sample(masks[:, None], grid.to(masks.dtype), align_corners=False)[:, 0]


def _result_dtype(threshold: float) -> torch.dtype:
    return torch.bool if threshold >= 0 else torch.uint8


def _finish(values: torch.Tensor, threshold: float, out: torch.Tensor) -> None:
    if threshold >= 0:
        torch.ge(values, threshold, out=out)
    else:
        out.copy_(values * 255)


class _SeparablePainter:
    """Bilinear interpolation as two small matrix products, exact where it decides.

    Several times faster than `grid_sample`, from which it differs by rounding. Pixels that are closer to the
    threshold than that are interpolated again by `grid_sample`, so that the mask is the same as with it alone.
    """

    def __init__(self, side: int, width: int, peak: float, threshold: float):
        self.cells = np.arange(side, dtype=np.float32)
        self.threshold = threshold
        # A coordinate is off by at most one rounding step of a number of the size of `side`.
        self.margin = 4e-7 * side * peak
        self.values = np.empty(max(_BLOCK_PIXELS, width), dtype=np.float32)
        self.unsure = np.empty(max(_BLOCK_PIXELS, width), dtype=bool)

    def paint(self, mask: torch.Tensor, box: torch.Tensor, rows: slice, columns: slice, out: np.ndarray) -> None:
        """Write the binary mask at the pixels `rows` x `columns` to `out`."""
        x0, y0, x1, y1 = box.numpy()
        across = mask.numpy() @ self._weights(columns, x0, x1).T
        down = self._weights(rows, y0, y1)
        height, width = out.shape
        step = max(1, self.values.size // width)
        for top in range(0, height, step):
            done = out[top : top + step]
            values = self.values[: done.size].reshape(done.shape)
            unsure = self.unsure[: done.size].reshape(done.shape)
            np.matmul(down[top : top + step], across, out=values)
            np.greater_equal(values, self.threshold + self.margin, out=done)
            np.greater_equal(values, self.threshold - self.margin, out=unsure)
            np.not_equal(unsure, done, out=unsure)
            if unsure.any():
                y, x = np.divmod(np.flatnonzero(unsure), width)
                pixels = torch.from_numpy(x + columns.start)[None], torch.from_numpy(y + rows.start + top)[None]
                exact = _interpolate(mask[None], box[None], *pixels)[0, 0]
                done[y, x] = exact.numpy() >= self.threshold

    def _weights(self, pixels: slice, start: np.float32, end: np.float32) -> np.ndarray:
        """(len(pixels), side): how much each cell counts at each pixel's centre."""
        centres = np.arange(pixels.start, pixels.stop, dtype=np.float32) + np.float32(0.5)
        position = (centres - start) / (end - start) * self.cells.size - np.float32(0.5)
        weights = np.abs(position[:, None] - self.cells)
        np.subtract(1, weights, out=weights)
        return np.maximum(weights, 0, out=weights)


def paste_mask_in_image_old(
    mask: torch.Tensor, box: torch.Tensor, img_h: int, img_w: int, threshold: float
) -> torch.Tensor:
    """Paste one mask by the original Detectron's rule, which is half a pixel off; kept for comparisons.

    The box is truncated to ints and its last pixel counts as inside.

    Args:
        mask: (M, M) in [0, 1].
        box: (4,) xyxy in pixels.
        img_h: height of the image.
        img_w: width of the image.
        threshold: foreground is above it; a negative one keeps the values, scaled to 0..255.

    Returns:
        (img_h, img_w) uint8 on the CPU.
    """
    x0, y0, x1, y1 = box.to(torch.int32).tolist()
    # Ends are inclusive.
    x1, y1 = x1 + 1, y1 + 1
    resized = np.asarray(Image.fromarray(mask.cpu().numpy()).resize((x1 - x0, y1 - y0), Image.Resampling.BILINEAR))
    values = (resized > threshold) if threshold >= 0 else resized * 255
    pasted = np.zeros((img_h, img_w), dtype=np.uint8)
    left, top, right, bottom = max(x0, 0), max(y0, 0), min(x1, img_w), min(y1, img_h)
    if left < right and top < bottom:
        pasted[top:bottom, left:right] = values[top - y0 : bottom - y0, left - x0 : right - x0].astype(np.uint8)
    return torch.from_numpy(pasted)


def pad_masks(masks: torch.Tensor, padding: int) -> tuple[torch.Tensor, float]:
    """Surround (B, M, M) masks by `padding` zero cells; returns them and by how much their side grew."""
    side = masks.shape[-1]
    return F.pad(masks, (padding,) * 4), (side + 2 * padding) / side


def scale_boxes(boxes: torch.Tensor, scale: float) -> torch.Tensor:
    """(B, 4) xyxy boxes grown by the factor `scale` about their centres."""
    start, end = boxes.split(2, dim=1)
    centre, half = (end + start) * 0.5, (end - start) * 0.5 * scale
    return torch.cat([centre - half, centre + half], dim=1)
