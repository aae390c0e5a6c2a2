"""Which neighboring pixels have one color: what supervision by boxes takes for parts of one object."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.structures import ImageList
from torch.nn import functional as F

from instseg_d2.layers.lab_color import rgb_to_lab
from instseg_d2.layers.neighbors import neighbor_similarity

INPUT_FORMATS = ("BGR", "RGB")


class ColorNeighbors:
    """Pairs of neighbors of similar color, on a coarse grid of the image, in L*a*b* (BoxInst, arXiv:2012.02310).

    Points that show no image are similar to nothing: the padding of the batch, that of a crop, and the strip at the
    bottom of the original image.

    Args:
        input_format: meaning of the image channels, "BGR" or "RGB".
        threshold: similarity from which neighbors count as of one color, tau of the paper: 0.3 in BoxInst's configs,
            0.1 in SIM's.
        theta: see `neighbor_similarity`.
        size: side of the window of neighbors.
        dilation: distance of neighbors on the grid.
        bottom_pixels_removed: height of the strip at the bottom of the original image whose colors are not used; boxes
            of COCO are bad there.

    Raises:
        ValueError: unknown `input_format`, or a `threshold` that is not positive.
    """

    def __init__(
        self,
        *,
        input_format: str = "BGR",
        threshold: float = 0.3,
        theta: float = 2.0,
        size: int = 3,
        dilation: int = 2,
        bottom_pixels_removed: int = 10,
    ):
        if input_format not in INPUT_FORMATS:
            raise ValueError(f"input_format='{input_format}': must be one of {INPUT_FORMATS}")
        if threshold <= 0:
            raise ValueError(f"color_threshold={threshold}: must be positive, as pixels off the image have 0")
        self.input_format = input_format
        self.threshold = threshold
        self.theta = theta
        self.size = size
        self.dilation = dilation
        self.bottom_pixels_removed = bottom_pixels_removed

    def edges(self, inputs: Sequence[Mapping[str, Any]], images: ImageList, stride: int) -> torch.Tensor:
        """(N, P, H, W) bool: a pixel and its neighbor are of one color; arguments as of `similarity`."""
        return self.similarity(inputs, images, stride) >= self.threshold

    @torch.no_grad()
    def similarity(self, inputs: Sequence[Mapping[str, Any]], images: ImageList, stride: int) -> torch.Tensor:
        """Similarity of the pixels of each image to their neighbors.

        Args:
            inputs: per image `image` (3, h, w) as the loader gave it, 0 to 255; optionally `height`, of the original
                image, and `image_box` (see `InstanceMapper`), where on `image` the original one lies.
            images: the padded batch.
            stride: of the grid.

        Returns:
            (N, P, H, W), see `neighbor_similarity`.
        """
        # Whole numbers per color, as AdelaiDet's code rounds: down.
        coarse = F.avg_pool2d(padded_pixels(inputs, images), stride).floor()
        lab = rgb_to_lab(coarse.flip(1) if self.input_format == "BGR" else coarse)
        valid = torch.stack(
            [self._valid(item, size, lab, stride) for item, size in zip(inputs, images.image_sizes, strict=True)]
        )
        return neighbor_similarity(lab, valid, size=self.size, dilation=self.dilation, theta=self.theta)

    def _valid(
        self, item: Mapping[str, Any], image_size: Sequence[int], maps: torch.Tensor, stride: int
    ) -> torch.Tensor:
        """(H, W) bool: points of the grid that lie in the image and above the strip at its bottom."""
        height, width = image_size
        left, top, right, bottom = item.get("image_box", (0, 0, width, height))
        removed = int(self.bottom_pixels_removed * (bottom - top) / item.get("height", bottom - top))
        rows, columns = (stride // 2 + stride * torch.arange(n, device=maps.device) for n in maps.shape[-2:])
        rows = (rows >= top) & (rows < min(height, bottom - removed))
        return rows[:, None] & (columns >= left) & (columns < min(width, right))


def padded_pixels(inputs: Sequence[Mapping[str, Any]], images: ImageList) -> torch.Tensor:
    """The images as the loader gave them, (N, 3, H, W) float32 0 to 255, padded with zeros like the batch."""
    pixels = torch.zeros_like(images.tensor, dtype=torch.float32)
    for target, item in zip(pixels, inputs, strict=True):
        height, width = item["image"].shape[-2:]
        target[:, :height, :width] = item["image"]
    return pixels
