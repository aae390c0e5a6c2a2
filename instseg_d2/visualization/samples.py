"""What a loss sees: mapped images with their ground truth, optional fields included."""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from detectron2.structures import BitMasks, Instances, PolygonMasks

from .overlay import id_colour, instance_colours, line_thickness, paint_mask, write_label
from .sheet import side_by_side, tile

_ALPHA = 0.4
_HIDDEN_COLOUR = np.array([255.0, 255.0, 255.0])


def _masks(instances: Instances, field: str, size: tuple[int, int]) -> np.ndarray | None:
    """(N, h, w) bool masks of a field, scaled to a panel of `size`; None if the instances do not have it."""
    if not instances.has(field):
        return None
    masks = instances.get(field)
    if isinstance(masks, PolygonMasks):
        masks = BitMasks.from_polygon_masks(masks, *instances.image_size)
    scaled = [cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST) for mask in masks.tensor.byte().numpy()]
    return np.stack(scaled).astype(bool) if scaled else np.zeros((0, *size), bool)


def _dashed_box(canvas: np.ndarray, box: Sequence[int], dash: int = 6) -> None:
    """In white on black, so that it is seen on any background."""
    x0, y0, x1, y1 = box
    thickness = line_thickness(canvas)
    cv2.rectangle(canvas, (x0, y0), (x1, y1), (0, 0, 0), thickness)
    for x in range(x0, x1, 2 * dash):
        for y in (y0, y1):
            cv2.line(canvas, (x, y), (min(x + dash, x1), y), _HIDDEN_COLOUR, thickness)
    for y in range(y0, y1, 2 * dash):
        for x in (x0, x1):
            cv2.line(canvas, (x, y), (x, min(y + dash, y1)), _HIDDEN_COLOUR, thickness)


class _Panels:
    """Draws the panels of one sample, each at the same size with the same colours."""

    def __init__(self, image: np.ndarray, instances: Instances, names: Sequence[str] | None, side: int) -> None:
        scale = side / max(image.shape[:2])
        self.size = max(1, round(image.shape[0] * scale)), max(1, round(image.shape[1] * scale))
        interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        self.image = cv2.resize(image, self.size[::-1], interpolation=interpolation)
        self.instances = instances
        self.boxes = (instances.gt_boxes.tensor.numpy() * scale).round().astype(int)
        classes = instances.gt_classes.tolist()
        self.labels = [names[index] if names and index < len(names) else str(index) for index in classes]
        if instances.has("gt_ids"):
            self.colours = [id_colour(identity) for identity in instances.gt_ids.tolist()]
        else:
            self.colours = instance_colours(instances.gt_classes.numpy())
        has_mask = instances.gt_has_mask if instances.has("gt_has_mask") else torch.ones(len(classes), dtype=torch.bool)
        self.has_mask = has_mask.tolist()
        self.masks = _masks(instances, "gt_masks", self.size)
        # Large ones first, so that small ones stay visible.
        self.order = np.argsort(-instances.gt_boxes.area().numpy(), kind="stable")

    def truth(self) -> np.ndarray:
        """Masks, boxes, classes and identities; where the mask is hidden, a dashed box that says so."""
        canvas = self.image.copy()
        for index in self.order:
            if self.masks is not None and self.has_mask[index]:
                paint_mask(canvas, self.masks[index], self.colours[index], _ALPHA)
        self._write_boxes(canvas)
        return canvas

    def _write_boxes(self, canvas: np.ndarray) -> None:
        ids = self.instances.gt_ids.tolist() if self.instances.has("gt_ids") else None
        for index in self.order:
            if self.has_mask[index]:
                x0, y0, x1, y1 = self.boxes[index].tolist()
                cv2.rectangle(canvas, (x0, y0), (x1, y1), self.colours[index], line_thickness(canvas))
            else:
                _dashed_box(canvas, self.boxes[index].tolist())
        for index in self.order:
            text = self.labels[index] if ids is None else f"{self.labels[index]} #{ids[index]}"
            if self.has_mask[index]:
                write_label(canvas, text, self.boxes[index, :2], self.colours[index])
            else:
                write_label(canvas, f"{text}, no mask", self.boxes[index, :2], _HIDDEN_COLOUR)

    def amodal(self, masks: np.ndarray) -> np.ndarray:
        """Whole objects: filled where `gt_masks` has them too, striped elsewhere."""
        canvas = self.image.copy()
        rows, columns = np.indices(self.size)
        stripes = (rows + columns) // 3 % 2 == 0
        for index in self.order:
            if not self.has_mask[index]:
                _dashed_box(canvas, self.boxes[index].tolist())
                continue
            inside = masks[index] if self.masks is None else masks[index] & self.masks[index]
            paint_mask(canvas, inside, self.colours[index], _ALPHA)
            canvas[masks[index] & ~inside & stripes] = self.colours[index]
        return canvas

    def occluders(self, masks: np.ndarray) -> np.ndarray:
        """What covers each instance, in the colour of the covered one and with its box."""
        canvas = self.image.copy()
        for index in self.order:
            if masks[index].any():
                x0, y0, x1, y1 = self.boxes[index].tolist()
                paint_mask(canvas, masks[index], self.colours[index], _ALPHA)
                cv2.rectangle(canvas, (x0, y0), (x1, y1), self.colours[index], line_thickness(canvas))
        return canvas


def draw_sample(
    image: np.ndarray,
    instances: Instances,
    class_names: Sequence[str] | None = None,
    *,
    caption: str = "",
    side: int = 320,
) -> np.ndarray:
    """Draw one mapped image: the ground truth, and a panel for each of `gt_amodal_masks` and `gt_occluders` it has.

    Args:
        image: (H, W, 3) uint8, BGR.
        instances: of the image, on the CPU, with `gt_boxes` and `gt_classes`; `gt_masks`, `gt_has_mask`, `gt_ids`,
            `gt_amodal_masks` and `gt_occluders` are drawn if they are there.
        class_names: text of the labels; class indices when left out.
        caption: stands above the first panel.
        side: the longer one of a panel, pixels.

    Returns:
        (H', W', 3) uint8, BGR: the panels side by side.

    Raises:
        ValueError: the instances belong to an image of another size.
    """
    if tuple(instances.image_size) != image.shape[:2]:
        raise ValueError(f"instances of a {tuple(instances.image_size)} image cannot be drawn over {image.shape[:2]}")
    panels = _Panels(image, instances, class_names, side)
    pictures, captions = [panels.truth()], [caption]
    for field, draw, title in (
        ("gt_amodal_masks", panels.amodal, "amodal masks (striped: not in gt_masks)"),
        ("gt_occluders", panels.occluders, "occluders, in the colour of the covered"),
    ):
        masks = _masks(instances, field, panels.size)
        if masks is not None:
            pictures.append(draw(masks))
            captions.append(title)
    return side_by_side(pictures, captions)


def sheets(pictures: Sequence[np.ndarray], *, max_width: int = 1600, rows: int = 4) -> list[np.ndarray]:
    """Arrange pictures on as many sheets as they need.

    Args:
        pictures: (H, W, 3) uint8 BGR each.
        max_width: of a sheet, pixels; one column is used where not even two fit.
        rows: of a sheet.

    Returns:
        (H', W', 3) uint8, BGR each; none without pictures.
    """
    if not pictures:
        return []
    columns = min(len(pictures), max(1, max_width // max(picture.shape[1] for picture in pictures)))
    each = columns * rows
    return [tile(pictures[start : start + each], columns=columns) for start in range(0, len(pictures), each)]
