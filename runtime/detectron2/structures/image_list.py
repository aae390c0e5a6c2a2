"""Images of different sizes in one padded batch tensor."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F


class ImageList:
    """A padded batch that remembers how large each image really is.

    Attributes:
        tensor: (N, H, W) or (N, C_1, ..., C_K, H, W); images sit at the top left.
        image_sizes: N tuples (height, width) before padding.
    """

    def __init__(self, tensor: torch.Tensor, image_sizes: list[tuple[int, int]]):
        self.tensor = tensor
        self.image_sizes = image_sizes

    def __len__(self) -> int:
        return len(self.image_sizes)

    def __getitem__(self, idx: int) -> torch.Tensor:
        """Image `idx` without its padding: (H, W) or (C_1, ..., C_K, H, W), a view of the batch."""
        height, width = self.image_sizes[idx]
        return self.tensor[idx, ..., :height, :width]

    def to(self, *args: Any, **kwargs: Any) -> ImageList:
        return ImageList(self.tensor.to(*args, **kwargs), self.image_sizes)

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    @staticmethod
    def from_tensors(
        tensors: list[torch.Tensor],
        size_divisibility: int = 0,
        pad_value: float = 0.0,
        padding_constraints: dict[str, int] | None = None,
    ) -> ImageList:
        """Pad images at the right and bottom to one size and stack them.

        Args:
            tensors: images (H_i, W_i) or (C_1, ..., C_K, H_i, W_i) that agree in all but the last two dimensions.
            size_divisibility: if above 1, height and width of the batch become multiples of it (the coarsest
                stride of the backbone).
            pad_value: what the padding holds.
            padding_constraints: ``{"square_size": s}`` with s > 0 pads to s x s; ``{"size_divisibility": d}``
                replaces the argument of that name.

        Raises:
            AssertionError: no images, something that is no tensor, or leading dimensions that differ.
            ValueError: an image is larger than the ``square_size`` asked for.
        """
        assert isinstance(tensors, (tuple, list)), f"ImageList takes a list of images, got {type(tensors).__name__}"
        assert len(tensors) > 0, "ImageList needs at least one image"
        for image in tensors:
            assert isinstance(image, torch.Tensor), f"images must be tensors, got {type(image).__name__}"
            assert image.shape[:-2] == tensors[0].shape[:-2], (
                f"images differ in their leading dimensions: {tuple(tensors[0].shape)} and {tuple(image.shape)}"
            )

        constraints = padding_constraints or {}
        multiple = constraints.get("size_divisibility", size_divisibility)
        square = constraints.get("square_size", 0)
        sizes = [(image.shape[-2], image.shape[-1]) for image in tensors]
        if square > 0:
            if any(max(size) > square for size in sizes):
                raise ValueError(f"images of sizes {sizes} do not fit into square_size={square}")
            height = width = square
        else:
            height, width = max(h for h, _ in sizes), max(w for _, w in sizes)
        if multiple > 1:
            height, width = (-(-side // multiple) * multiple for side in (height, width))

        first = tensors[0]
        if len(tensors) == 1:
            # One pass over the memory instead of a fill followed by a copy.
            padding = (0, width - first.shape[-1], 0, height - first.shape[-2])
            return ImageList(F.pad(first, padding, value=pad_value)[None].contiguous(), sizes)
        batch = first.new_full((len(tensors), *first.shape[:-2], height, width), pad_value)
        for slot, image, (h, w) in zip(batch, tensors, sizes, strict=True):
            slot[..., :h, :w].copy_(image)
        return ImageList(batch, sizes)
