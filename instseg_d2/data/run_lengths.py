"""Masks as COCO's compressed run lengths."""

from typing import Any

import numpy as np
from pycocotools import mask as mask_util


def run_lengths(mask: list | dict, height: int, width: int) -> dict[str, Any]:
    """Compressed run lengths of polygons or of either form of run lengths; an empty list gives an empty mask.

    Args:
        mask: as a COCO file or a record has it.
        height: of the image, pixels.
        width: of the image, pixels.

    Raises:
        ValueError: run lengths of another size.
    """
    if isinstance(mask, dict):
        if tuple(mask["size"]) != (height, width):
            raise ValueError(f"the mask has [height, width] {list(mask['size'])}, the image [{height}, {width}]")
        return mask_util.frPyObjects(mask, height, width) if isinstance(mask["counts"], list) else mask
    if not len(mask):
        return encode_mask(np.zeros((height, width), dtype=bool))
    polygons = [np.asarray(polygon, dtype=np.float64).reshape(-1).tolist() for polygon in mask]
    return mask_util.merge(mask_util.frPyObjects(polygons, height, width))


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """Compressed run lengths that json can hold, of (H, W) bool."""
    encoded = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode("ascii")}


def decode_mask(mask: list | dict, height: int, width: int) -> np.ndarray:
    """(H, W) bool of a mask in any of COCO's forms; see `run_lengths`."""
    return mask_util.decode(run_lengths(mask, height, width)).astype(bool)
