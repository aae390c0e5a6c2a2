"""What a model thinks of each instance: a strip with the image, every map that the instance has, and its mask."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from detectron2.structures import Instances

from .crops import Crop
from .overlay import instance_colours
from .panels import PANELS, Panel, Style, boxes_of, faded, with_further_maps
from .text import line_height, shorten, text_width, wrap, write

_TEXT, _SMALL = 13, 10
_GAP = 8
_SCALE_HEIGHT = 8
_BEYOND = 225  # grey of what lies outside of the image
_INK, _PALE_INK = (30, 30, 30), (110, 110, 110)
# White on black is seen on any image; the maps have a faint frame.
_BOX, _FRAME = ((255, 255, 255), (0, 0, 0)), ((150, 150, 150),)


def _draw_box(picture: np.ndarray, crop: Crop, colours: Sequence[tuple[int, int, int]]) -> None:
    """Lines around the box, in place, from the inner one outwards."""
    x0, y0, x1, y1 = (round(value) for value in crop.box)
    for grown, colour in enumerate(colours, start=1):
        cv2.rectangle(picture, (x0 - grown, y0 - grown), (x1 - 1 + grown, y1 - 1 + grown), colour, 1)


@dataclass(frozen=True)
class _Row:
    crop: Crop
    label: str
    colour: np.ndarray
    hidden: bool


def _hidden(crop: np.ndarray) -> np.ndarray:
    canvas = faded(crop)
    lines = wrap("hidden from the loss", _TEXT, len(canvas) - 8)
    top = max((len(canvas) - len(lines) * line_height(_TEXT)) // 2, 0)
    for number, line in enumerate(lines):
        corner = (len(canvas) - text_width(line, _TEXT)) // 2, top + number * line_height(_TEXT)
        write(canvas, line, corner, _TEXT, (255, 255, 255))
    return canvas


def _rows(instances: Instances, names: Sequence[str] | None, chosen: Sequence[int], side: int) -> list[_Row]:
    boxes = boxes_of(instances).tensor.cpu().numpy()
    classes = (instances.pred_classes if instances.has("pred_classes") else instances.gt_classes).cpu().numpy()
    colours = instance_colours(classes)
    rows = []
    for index in chosen:
        number = int(classes[index])
        parts = [names[number] if names and number < len(names) else f"class {number}"]
        if instances.has("gt_ids"):
            parts.append(f"#{int(instances.gt_ids[index])}")
        if instances.has("scores"):
            parts.append(f"{float(instances.scores[index]):.2f}")
        width, height = boxes[index, 2:] - boxes[index, :2]
        label = f"{' '.join(parts)}   {width:.0f}×{height:.0f} px"
        hidden = instances.has("gt_has_mask") and not bool(instances.gt_has_mask[index])
        rows.append(_Row(Crop.around(boxes[index], side), label, colours[index], hidden))
    return rows


def _choose(instances: Instances, limit: int) -> list[int]:
    """Best scores first, or in ground truth the largest boxes."""
    order = instances.scores if instances.has("scores") else boxes_of(instances).area()
    return order.cpu().argsort(descending=True, stable=True)[:limit].tolist()


def _header(titles: Sequence[str], styles: Sequence[Style | None], side: int) -> np.ndarray:
    """Titles above the columns, on their last line, and colour scales below those that have one."""
    lines = [wrap(title, _TEXT, side) for title in titles]
    legends = [style.legend if style is not None else None for style in styles]
    most, step = max(len(text) for text in lines), line_height(_TEXT)
    height = most * step + 4
    if any(legends):
        height += _SCALE_HEIGHT + line_height(_SMALL) + 3
    header = np.full((height, len(lines) * (side + _GAP) + _GAP, 3), 255, np.uint8)
    for column, (text, legend) in enumerate(zip(lines, legends, strict=True)):
        left = _GAP + column * (side + _GAP)
        for number, line in enumerate(text):
            write(header, line, (left, (most - len(text) + number) * step), _TEXT, _INK)
        if legend:
            _draw_scale(header, left, most * step + 3, side, legend)
    return header


def _draw_scale(canvas: np.ndarray, left: int, top: int, width: int, legend: tuple[float, float, int]) -> None:
    low, high, colours = legend
    ramp = np.linspace(0, 255, width).round().astype(np.uint8)[None].repeat(_SCALE_HEIGHT, axis=0)
    canvas[top : top + _SCALE_HEIGHT, left : left + width] = cv2.applyColorMap(ramp, colours)
    below = top + _SCALE_HEIGHT
    for share in (0, 0.5, 1):
        text = f"{low + share * (high - low):.3g}"
        x = left + round(share * (width - text_width(text, _SMALL)))
        write(canvas, text, (x, below), _SMALL, _PALE_INK)


def _strip(row: _Row, pictures: Sequence[np.ndarray]) -> np.ndarray:
    """The pictures of an instance side by side under its label."""
    side = row.crop.side
    bar = line_height(_TEXT) + 4
    strip = np.full((bar + side + _GAP, len(pictures) * (side + _GAP) + _GAP, 3), 255, np.uint8)
    mark = line_height(_TEXT) - 5
    strip[3 : 3 + mark, _GAP : _GAP + mark] = _PALE_INK
    strip[4 : 2 + mark, _GAP + 1 : _GAP + mark - 1] = row.colour
    start = _GAP + mark + 5
    label = shorten(row.label, _TEXT, strip.shape[1] - start - _GAP)
    write(strip, label, (start, 0), _TEXT, _INK)
    for column, picture in enumerate(pictures):
        left = _GAP + column * (side + _GAP)
        strip[bar : bar + side, left : left + side] = picture
    return strip


@dataclass(frozen=True)
class _Column:
    """A panel with its maps, (side, side) each, one a row; `of_box`: they are relative to the box."""

    title: str
    style: Style
    maps: list[np.ndarray]
    of_box: bool

    @classmethod
    def of(cls, panel: Panel, values: np.ndarray, rows: Sequence[_Row], chosen: Sequence[int]) -> "_Column":
        maps = [row.crop.place(values[index]) for row, index in zip(rows, chosen, strict=True)]
        return cls(panel.title, panel.style.fitted(maps), maps, values.ndim == 4)


def _maps(panels: Iterable[Panel], instances: Instances) -> Iterator[tuple[Panel, np.ndarray]]:
    """The panels whose map the instances have, with the maps of all instances."""
    for panel in with_further_maps(panels, instances):
        values = panel.values(instances)
        if values is not None:
            yield panel, values


def _pictures(row: _Row, number: int, image: np.ndarray, columns: Iterable[_Column]) -> list[np.ndarray]:
    """The image around an instance, and its maps, each with the box."""
    crop, beyond = row.crop.of_image(image, _BEYOND), row.crop.beyond(image.shape[:2])
    boxed = crop.copy()
    _draw_box(boxed, row.crop, _BOX)
    pictures = [boxed]
    for column in columns:
        picture = _hidden(crop) if row.hidden else column.style.draw(crop, column.maps[number], row.colour)
        picture[beyond] = _BEYOND
        if column.of_box and not row.hidden:
            _draw_box(picture, row.crop, _FRAME)
        pictures.append(picture)
    return pictures


def _note(text: str, width: int) -> np.ndarray:
    bar = np.full((line_height(_TEXT) + _GAP, width, 3), 255, np.uint8)
    write(bar, shorten(text, _TEXT, width - 2 * _GAP), (_GAP, 0), _TEXT, _PALE_INK)
    return bar


def draw_strips(
    image: np.ndarray,
    instances: Instances,
    class_names: Sequence[str] | None = None,
    *,
    panels: Iterable[Panel] = PANELS,
    rows: int = 8,
    side: int = 160,
) -> np.ndarray:
    """Draw a strip for each instance: the image around its box, then a panel for each map that it has.

    Works on predictions, with the further maps that heads attach with `keep_aux=True`, and on ground truth, where it
    shows what a loss sees. A `pred_*` field of maps relative to the boxes that no panel names is drawn as a heat map.

    Args:
        image: (H, W, 3) uint8, BGR.
        instances: predictions or ground truth of an image of this size. Boxes and classes are needed; `scores`,
            `gt_ids` and `gt_has_mask` are told where they are there. Maps are probabilities (N, 1, M, M) relative to
            the boxes, or masks (N, H, W) of the image.
        class_names: text of the labels; class indices when left out.
        panels: in this order; those whose map the instances lack are left out.
        rows: instances at most; the best by score, or in ground truth the largest. A line tells if there are more.
        side: of a panel, pixels.

    Returns:
        (H', W', 3) uint8, BGR.

    Raises:
        ValueError: the instances belong to an image of another size, or a map has a shape that is no map's.
    """
    if tuple(instances.image_size) != image.shape[:2]:
        raise ValueError(f"instances of a {tuple(instances.image_size)} image cannot be drawn over {image.shape[:2]}")
    chosen = _choose(instances, rows)
    shown = _rows(instances, class_names, chosen, side)
    columns = [_Column.of(panel, values, shown, chosen) for panel, values in _maps(panels, instances)]
    picture = [_header(["image", *(column.title for column in columns)], [None, *(c.style for c in columns)], side)]
    picture += [_strip(row, _pictures(row, number, image, columns)) for number, row in enumerate(shown)]
    if len(instances) > rows or not len(instances):
        note = f"{rows} of {len(instances)} instances" if len(instances) else "no instances"
        picture.append(_note(note, picture[0].shape[1]))
    return np.concatenate(picture)
