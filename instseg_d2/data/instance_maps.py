"""The instances of a video frame with one label a pixel, and the two forms in which BDD100K has them as files.

A bitmask is a PNG with four channels: R is the category from 1 on (0 is background), G flags, and (B << 8) + A the
identity in the video, from 1 on. The other form is Scalabel's json, with a list of labels for each frame and a mask as
run lengths in each label.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as mask_util

from instseg_d2.files import write_whole

from .bdd100k_categories import match_category
from .errors import DatasetError
from .run_lengths import encode_mask, run_lengths

# What 16 bits hold, without the background.
MAX_ID = 2**16 - 1


class Flag(IntFlag):
    """Bits of a bitmask's second channel."""

    IGNORED = 1
    CROWD = 2
    OCCLUDED = 4
    TRUNCATED = 8


@dataclass(frozen=True)
class InstanceMap:
    """N instances of one frame that do not overlap.

    Attributes:
        index: (H, W) int32; 0 is background, k + 1 is instance k. Every instance has a pixel.
        ids: (N,) int64, identities in the video; each occurs once.
        classes: (N,) int64 from 0 on.
        flags: (N,) int64, see `Flag`.
    """

    index: np.ndarray
    ids: np.ndarray
    classes: np.ndarray
    flags: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def ignored(self) -> np.ndarray:
        """(N,) bool: regions that are not evaluated, because they are crowds or marked so."""
        return (self.flags & (Flag.IGNORED | Flag.CROWD)) > 0

    def to_bitmask(self) -> np.ndarray:
        """(H, W, 4) uint8, RGBA.

        Raises:
            ValueError: an identity is none that a bitmask can hold; 0 would be read as background.
        """
        if len(self) and not (1 <= self.ids.min() and self.ids.max() <= MAX_ID):
            raise ValueError(f"identities in a bitmask lie between 1 and {MAX_ID}; got {sorted(self.ids.tolist())}")
        channels = np.stack([self.classes + 1, self.flags, self.ids >> 8, self.ids & 255], axis=1)
        colors = np.concatenate([np.zeros((1, 4), np.int64), channels]).astype(np.uint8)
        return colors[self.index]

    def to_labels(self, class_names: Sequence[str], scores: Mapping[int, float] | None = None) -> list[dict[str, Any]]:
        """Scalabel's labels, with `score` for those identities that have one in `scores`."""
        labels = []
        columns = np.asfortranarray(self.index)  # run lengths go down the columns
        for number, (identity, category, flags) in enumerate(zip(self.ids, self.classes, self.flags, strict=True)):
            label = {
                "id": str(identity),
                "category": class_names[category],
                "attributes": {flag.name.lower(): bool(flags & flag) for flag in Flag if flags & flag},
                "rle": encode_mask(columns == number + 1),
            }
            if scores and int(identity) in scores:
                label["score"] = float(scores[int(identity)])
            labels.append(label)
        return labels


def empty_map(height: int, width: int) -> InstanceMap:
    """A frame without instances."""
    none = np.zeros(0, dtype=np.int64)
    return InstanceMap(np.zeros((height, width), dtype=np.int32), none, none, none)


def paint(
    masks: np.ndarray, scores: np.ndarray, ids: np.ndarray, classes: np.ndarray, limit: int | None = None
) -> InstanceMap:
    """Make masks that overlap into a map: each pixel goes to the mask of the highest score, of equal ones the first.

    Args:
        masks: (N, H, W) bool.
        scores: (N,).
        ids: (N,) integers.
        classes: (N,) integers.
        limit: the largest number of instances; those with the highest scores are taken.

    Returns:
        Instances in the order of `masks`, without those that have no pixel left.
    """
    order = np.argsort(-scores, kind="stable")[:limit]
    index = np.zeros(masks.shape[1:], dtype=np.int32)
    for number in order[::-1]:
        index[masks[number]] = number + 1
    seen = np.bincount(index.ravel(), minlength=len(masks) + 1)[1:] > 0
    place = np.concatenate([[0], np.cumsum(seen) * seen]).astype(np.int32)
    classes = np.asarray(classes, dtype=np.int64)[seen]
    return InstanceMap(place[index], np.asarray(ids, dtype=np.int64)[seen], classes, np.zeros_like(classes))


def parse_bitmask(bitmask: np.ndarray) -> InstanceMap:
    """The instances of a bitmask, by rising identity. Pixels of identity 0 are background, whatever their category.

    Args:
        bitmask: (H, W, 4) uint8, RGBA.

    Raises:
        DatasetError: it is no such array, or one identity has several categories or flags.
    """
    if bitmask.ndim != 3 or bitmask.shape[2] != 4 or bitmask.dtype != np.uint8:
        raise DatasetError(f"a bitmask has four channels of 8 bits (RGBA), not shape {bitmask.shape}, {bitmask.dtype}")
    pixels = np.ascontiguousarray(bitmask).reshape(-1, 4)
    # Runs of equal pixels, which are far fewer than pixels.
    packed = pixels.view(np.uint32).ravel()
    starts = np.concatenate([[0], np.flatnonzero(packed[1:] != packed[:-1]) + 1]) if len(packed) else np.zeros(0, int)
    red, green, blue, alpha = pixels[starts].astype(np.int64).T
    identity, attributes = (blue << 8) | alpha, (red << 8) | green
    ids = np.unique(identity[identity > 0])
    place = np.where(identity > 0, np.searchsorted(ids, identity) + 1, 0)
    of_instance = np.zeros(len(ids) + 1, dtype=np.int64)
    of_instance[place] = attributes
    mixed = (of_instance[place] != attributes) & (place > 0)
    if mixed.any():
        raise DatasetError(f"instance {identity[mixed][0]} has several categories or flags (channels R and G)")
    lengths = np.diff(np.append(starts, len(packed)))
    index = np.repeat(place.astype(np.int32), lengths).reshape(bitmask.shape[:2])
    return InstanceMap(index, ids, (of_instance[1:] >> 8) - 1, of_instance[1:] & 255)


def read_bitmask(path: str | os.PathLike) -> InstanceMap:
    """Read a bitmask file.

    Raises:
        DatasetError: it is missing, no PNG with four channels, or contradicts itself; the message names the file.
    """
    try:
        with Image.open(path) as image:
            return parse_bitmask(np.asarray(image))
    except FileNotFoundError:
        raise DatasetError(f"no bitmask {path}") from None
    except (DatasetError, OSError) as error:
        raise DatasetError(f"{path}: {error}") from None


def write_bitmask(path: Path, instances: InstanceMap) -> None:
    """Write a bitmask file; its folder must exist.

    Raises:
        OSError: it cannot be written; the error names the file.
        ValueError: see `InstanceMap.to_bitmask`.
    """
    encoded = cv2.imencode(".png", cv2.cvtColor(instances.to_bitmask(), cv2.COLOR_RGBA2BGRA))[1]
    write_whole(Path(path), encoded.tobytes())


def map_of_labels(
    labels: Iterable[Mapping[str, Any]],
    class_names: Sequence[str],
    size: tuple[int, int],
    where: str,
    identities: Mapping[str, int] | None = None,
) -> InstanceMap:
    """The instances of Scalabel's labels, in their order, without those that have no pixel.

    Args:
        labels: with `id`, `category`, `rle` and, where it has some, `attributes`.
        class_names: categories in the order of their class indices; distractors of one are ignored, see
            `match_category`.
        size: height and width of the frame, pixels.
        where: names the frame in errors.
        identities: numbers of identities that are no numbers themselves.

    Raises:
        DatasetError: a label is not of that form, of another category or size, or overlaps with another one.
    """
    index = np.zeros(size, dtype=np.int32)
    found: list[tuple[int, int, int]] = []
    for label in labels:
        identity, category, flags = _parse_label(label, class_names, where, identities)
        box, mask = _mask_of(label, size, where)
        inside = index[box]
        taken = inside[mask]
        if taken.any():
            other = found[int(taken.max()) - 1][0]
            raise DatasetError(
                f"{where}: the masks of {identity} and {other} overlap in {np.count_nonzero(taken)} pixels; a pixel "
                "belongs to one instance: leave them to the one of the higher score"
            )
        if identity in (one for one, _, _ in found):
            raise DatasetError(f"{where}: two labels have the id {identity}")
        if len(taken):
            found.append((identity, category, flags))
            inside[mask] = len(found)
    columns = np.array(found, dtype=np.int64).reshape(-1, 3).T
    return InstanceMap(index, *columns)


def _parse_label(
    label: Mapping[str, Any], class_names: Sequence[str], where: str, identities: Mapping[str, int] | None
) -> tuple[int, int, int]:
    missing = [key for key in ("id", "category", "rle") if not label.get(key)]
    if missing:
        raise DatasetError(f"{where}: label {label.get('id')!r} has no {', '.join(map(repr, missing))}")
    matched = match_category(label["category"], class_names)
    if matched is None:
        raise DatasetError(f"{where}: category '{label['category']}' is none of {', '.join(class_names)}")
    name = str(label["id"])
    if not name.isdigit() and name not in (identities or ()):
        raise DatasetError(f"{where}: id '{name}' is no number")
    attributes = label.get("attributes") or {}
    flags = sum(flag for flag in Flag if attributes.get(flag.name.lower())) | (Flag.IGNORED if matched[1] else 0)
    return identities[name] if name in (identities or ()) else int(name), matched[0], flags


def _mask_of(label: Mapping[str, Any], size: tuple[int, int], where: str) -> tuple[tuple[slice, slice], np.ndarray]:
    """Where in the frame the mask is, and its pixels there, bool."""
    try:
        encoded = run_lengths(dict(label["rle"]), *size)
        left, top, width, height = mask_util.toBbox(encoded).astype(int).tolist()
        box = slice(top, top + height), slice(left, left + width)
        return box, mask_util.decode(encoded)[box].astype(bool)
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{where}: label {label['id']!r} has no mask that can be read: {error}") from None


def read_scalabel(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The frames of one of Scalabel's json files, which is a list of them, or an object with the list `frames`.

    Raises:
        DatasetError: it cannot be read, or is of another form.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"cannot read {path}: {error}") from None
    frames = content.get("frames") if isinstance(content, dict) else content
    if not isinstance(frames, list) or not all(isinstance(frame, dict) and "name" in frame for frame in frames):
        raise DatasetError(f"{path} is neither a list of frames with a 'name' nor an object with that list as 'frames'")
    return frames
