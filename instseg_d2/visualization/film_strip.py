"""Pictures of a video in rows: time goes from left to right, and each row shows something of every frame."""

from collections.abc import Iterable, Mapping, Sequence

import cv2
import numpy as np
import torch
from detectron2.structures import Boxes, Instances

from .overlay import draw_instances
from .text import line_height, shorten, text_width, wrap, write

TEXT, SMALL = 13, 11
GAP = 4
MARGIN = 96  # left of the pictures, for what a row shows
INK, PALE_INK = (30, 30, 30), (110, 110, 110)


def row(title: str, pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures (H, W, 3) uint8 of one height side by side, and to their left what they show."""
    height = max(pictures[0].shape[0], 1)
    margin = np.full((height, MARGIN, 3), 255, np.uint8)
    for number, line in enumerate(wrap(title, SMALL, MARGIN - 2 * GAP)):
        write(margin, line, (GAP, number * line_height(SMALL)), SMALL, INK)
    gap = np.full((height, GAP, 3), 255, np.uint8)
    return np.concatenate([margin, *(part for picture in pictures for part in (picture, gap))], axis=1)


def header(numbers: Sequence[int], widths: Sequence[int]) -> np.ndarray:
    """The numbers of the frames, above columns of these widths."""
    bar = np.full((line_height(SMALL), MARGIN + sum(widths) + GAP * len(widths), 3), 255, np.uint8)
    left = MARGIN
    for number, width in zip(numbers, widths, strict=True):
        text = shorten(f"frame {number}", SMALL, width)
        write(bar, text, (left + (width - text_width(text, SMALL)) // 2, 0), SMALL, PALE_INK)
        left += width + GAP
    return bar


def caption(text: str, width: int, colour: np.ndarray | None = None) -> np.ndarray:
    """A line of text to stand above a row, after a square of the BGR colour if there is one."""
    bar = np.full((line_height(TEXT) + GAP, width, 3), 255, np.uint8)
    left = GAP
    if colour is not None:
        mark = line_height(TEXT) - 5
        bar[3 : 3 + mark, left : left + mark] = PALE_INK
        bar[4 : 2 + mark, left + 1 : left + mark - 1] = colour
        left += mark + 5
    write(bar, shorten(text, TEXT, width - left - GAP), (left, 0), TEXT, INK)
    return bar


def stack(parts: Iterable[np.ndarray]) -> np.ndarray:
    """Pictures (H, W, 3) uint8 below one another, at the left edge, padded with white; at least one."""
    parts = list(parts)
    width = max(part.shape[1] for part in parts)
    white = (255, 255, 255)
    return np.concatenate(
        [cv2.copyMakeBorder(p, 0, GAP, 0, width - p.shape[1], cv2.BORDER_CONSTANT, value=white) for p in parts]
    )


def check_frames(frames: Sequence[np.ndarray], found: Sequence[Instances], name: str) -> None:
    """Raise ValueError unless there are frames, and for each the instances of an image of its size."""
    if not len(frames) or len(found) != len(frames):
        raise ValueError(f"'{name}' has instances of {len(found)} frames, and there are {len(frames)} frames")
    for number, (frame, instances) in enumerate(zip(frames, found, strict=True)):
        if tuple(instances.image_size) != frame.shape[:2]:
            raise ValueError(
                f"'{name}': instances of a {tuple(instances.image_size)} image cannot be drawn over frame {number}, "
                f"which is {frame.shape[:2]}"
            )


def scale_frame(frame: np.ndarray, height: int) -> np.ndarray:
    """A frame (H, W, 3) at another height, pixels."""
    factor = height / frame.shape[0]
    size = max(round(frame.shape[1] * factor), 1), height
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)


def _scale_instances(instances: Instances, size: tuple[int, int]) -> Instances:
    """Predictions without scores, of an image of another (height, width)."""
    height, width = instances.image_size
    boxes = Boxes(instances.pred_boxes.tensor.cpu().float().clone())
    boxes.scale(size[1] / width, size[0] / height)
    result = Instances(size, pred_boxes=boxes, pred_classes=instances.pred_classes, pred_ids=instances.pred_ids)
    if instances.has("pred_masks"):
        result.pred_masks = torch.zeros(len(instances), *size, dtype=torch.bool)
        for scaled, mask in zip(result.pred_masks, instances.pred_masks.cpu().numpy(), strict=True):
            resized = cv2.resize(mask.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST)
            scaled[:] = torch.from_numpy(resized) > 0
    return result


def draw_film_strip(
    frames: Sequence[np.ndarray],
    rows: Mapping[str, Sequence[Instances]],
    class_names: Sequence[str] | None = None,
    *,
    numbers: Sequence[int] | None = None,
    height: int = 160,
    labels: bool = True,
) -> np.ndarray:
    """Draw frames of a video with their objects, each object in the same colour throughout a row.

    Several rows set models side by side, as figure 5.4 of PCAN's thesis: the baseline, the frame level, the instance
    level off and on. Every model counts for itself: an id, and so a colour, means the same object within a row only.

    Args:
        frames: (H, W, 3) uint8 BGR each, at least one.
        rows: by the name that stands beside it, per frame the predictions of that size: `pred_boxes`, `pred_classes`,
            `pred_ids` (N,) int64 and, if there are masks, `pred_masks` (N, H, W).
        class_names: text of the labels; class indices when left out.
        numbers: of the frames in their video; without them 0 and on.
        height: of a picture, pixels.
        labels: write class and id.

    Returns:
        (H', W', 3) uint8, BGR.

    Raises:
        ValueError: no row; a row has another number of frames, or instances of a frame of another size.
    """
    if not rows:
        raise ValueError("a film strip needs a row")
    lines = []
    for name, found in rows.items():
        check_frames(frames, found, name)
        pictures = []
        for frame, instances in zip(frames, found, strict=True):
            picture = scale_frame(frame, height)
            scaled = _scale_instances(instances, picture.shape[:2])
            pictures.append(draw_instances(picture, scaled, class_names, labels=labels))
        lines.append(row(name, pictures))
    widths = [picture.shape[1] for picture in pictures]
    return stack([header(range(len(frames)) if numbers is None else numbers, widths), *lines])
