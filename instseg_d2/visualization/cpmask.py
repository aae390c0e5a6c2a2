"""What CPMask saw of a pixel: its affinities to the other pixels of each box that it lies in, and the boundaries."""

from collections.abc import Sequence

import cv2
import numpy as np
from detectron2.structures import Instances

from .affinities import pixel_affinity
from .crops import Crop
from .overlay import instance_colours
from .panels import OBJECT_COLOUR, Heat, Style, Tint
from .sheet import side_by_side

_BEYOND = 225  # grey of what lies outside of the image


def draw_pixel_affinity(
    image: np.ndarray,
    instances: Instances,
    point: tuple[float, float],
    class_names: Sequence[str] | None = None,
    *,
    rows: int = 4,
    side: int = 220,
) -> np.ndarray:
    """Draw for each object whose box holds a point the image, the point's affinities, the boundary and the mask.

    Affinities are told as multiples of a uniform one; the scale runs from 0 to the greatest of the picture. The point
    is marked in all panels.

    Args:
        image: (H, W, 3) uint8, BGR.
        instances: predictions of an image of this size by CPMask's head with `keep_aux`, with `pred_boxes`,
            `pred_classes`, `scores` and `pred_masks` (N, H, W).
        point: x and y, pixels.
        class_names: text of the captions; class indices when left out.
        rows: objects at most, the best by score.
        side: of a panel, pixels.

    Returns:
        (H', W', 3) uint8, BGR.

    Raises:
        ValueError: the instances are of an image of another size or have no affinities, or the point lies in no box.
    """
    if tuple(instances.image_size) != image.shape[:2]:
        raise ValueError(f"instances of a {tuple(instances.image_size)} image cannot be drawn over {image.shape[:2]}")
    found, affinities = pixel_affinity(instances.to("cpu"), point)
    if not len(found):
        raise ValueError(f"the point ({point[0]:g}, {point[1]:g}) lies in none of {len(instances)} predicted boxes")
    best = found.scores.argsort(descending=True)[:rows]
    found, affinities = found[best], affinities[best].numpy()
    heat = Heat(0.0, None).fitted(list(affinities))
    maps: list[tuple[str, Style, np.ndarray]] = [(f"affinity, 0 to {heat.high:.3g} x", heat, affinities)]
    if found.has("pred_boundaries"):
        maps.append(("boundary", Tint(OBJECT_COLOUR), found.pred_boundaries.numpy()))
    maps.append(("mask", Tint(on_image=True, alpha=0.5), found.pred_masks.numpy()))
    pictures = []
    for row, colour in enumerate(instance_colours(found.pred_classes.numpy())):
        crop = Crop.around(found.pred_boxes.tensor[row].numpy(), side)
        plain = crop.of_image(image, _BEYOND)
        panels = [plain, *(style.draw(plain, crop.place(values[row]), colour) for _, style, values in maps)]
        name = int(found.pred_classes[row])
        label = f"{class_names[name] if class_names else f'class {name}'} {float(found.scores[row]):.2f}"
        captions = [label, *(title for title, _, _ in maps)]
        pictures.append(side_by_side([_marked(panel, crop, point) for panel in panels], captions))
    return np.concatenate(pictures)


def _marked(panel: np.ndarray, crop: Crop, point: tuple[float, float]) -> np.ndarray:
    """A copy with a cross at the point."""
    panel = np.ascontiguousarray(panel.copy())
    scale = crop.side / crop.extent
    place = (round((point[0] - crop.left) * scale), round((point[1] - crop.top) * scale))
    for shade, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.drawMarker(panel, place, shade, cv2.MARKER_CROSS, max(crop.side // 16, 7), thickness, cv2.LINE_AA)
    return panel
