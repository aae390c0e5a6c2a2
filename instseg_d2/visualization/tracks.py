"""Objects of a video one by one over time: their masks, and what a model saw on its way to them.

Drawn from frames and their instances, whatever model they come from.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from detectron2.structures import Instances

from .crops import Crop
from .film_strip import caption, check_frames, header, row, stack
from .overlay import id_colour
from .panels import Heat, Panel, Style, Tint, with_further_maps
from .prototypes import most_attended, paint_regions, paint_shares

_BEYOND = 225  # grey of what lies outside of the image, and of frames without the object

TRACK_PANELS = (
    Panel("first mask", "pred_soft_masks", Heat()),
    Panel("mask", "pred_masks", Tint(on_image=True, alpha=0.4)),
)


@dataclass(frozen=True)
class _Sight:
    """An object in one frame: its surroundings, its maps by panel, and its attention maps (A, side, side) if any."""

    crop: Crop
    picture: np.ndarray
    maps: dict[str, np.ndarray]
    attention: np.ndarray | None

    def draw(self, style: Style, title: str, colour: np.ndarray) -> np.ndarray:
        """The map of a panel; the surroundings where there is none."""
        return style.draw(self.picture, self.maps[title], colour) if title in self.maps else self.picture


class _Sights:
    """All sights of all objects, by id and position of the frame."""

    def __init__(self, frames: Sequence[np.ndarray], found: Sequence[Instances], panels: Sequence[Panel], side: int):
        self.panels: dict[str, Panel] = {}
        self.of: dict[int, dict[int, _Sight]] = {}
        for position, (frame, instances) in enumerate(zip(frames, found, strict=True)):
            self._add(position, frame, instances, panels, side)

    def _add(self, position: int, frame: np.ndarray, instances: Instances, panels: Sequence[Panel], side: int) -> None:
        values = {}
        for panel in with_further_maps(panels, instances):
            maps = panel.values(instances) if panel.maps != "pred_attention" else None
            if maps is not None:
                values[panel.title] = maps
                self.panels.setdefault(panel.title, panel)
        boxes = instances.pred_boxes.tensor.cpu().numpy()
        attention = instances.pred_attention.cpu().float().numpy() if instances.has("pred_attention") else None
        for index, identity in enumerate(instances.pred_ids.tolist()):
            crop = Crop.around(boxes[index], side)
            maps = {title: crop.place(of_all[index]) for title, of_all in values.items()}
            looks = None if attention is None else np.stack([crop.of_box(one) for one in attention[index]])
            sight = _Sight(crop, crop.of_image(frame, _BEYOND), maps, looks)
            self.of.setdefault(identity, {})[position] = sight

    def longest(self, count: int) -> list[int]:
        """Ids of the objects seen in most frames."""
        return sorted(sorted(self.of), key=lambda identity: -len(self.of[identity]))[:count]

    def styles(self, identities: Iterable[int]) -> dict[str, Style]:
        """How to draw each panel, with one scale for these objects."""
        seen = [sight for identity in identities for sight in self.of[identity].values()]
        return {
            title: panel.style.fitted([sight.maps[title] for sight in seen if title in sight.maps])
            for title, panel in self.panels.items()
        }


def draw_tracks(
    frames: Sequence[np.ndarray],
    instances: Sequence[Instances],
    class_names: Sequence[str] | None = None,
    *,
    numbers: Sequence[int] | None = None,
    panels: Sequence[Panel] = TRACK_PANELS,
    foreground: int | None = None,
    prototypes: int = 1,
    rows: int = 8,
    side: int = 112,
) -> np.ndarray:
    """Draw each object of a video over time: its mask in the surroundings of its box, and further maps.

    Args:
        frames: (H, W, 3) uint8 BGR each, at least one.
        instances: per frame the predictions of that size: `pred_boxes`, `pred_classes`, `pred_ids`, and the maps that
            the panels name, such as `pred_masks` (N, H, W). Fields of maps that no panel names are drawn as heat maps.
            PCAN's attention maps `pred_attention` (N, A, M, M), in [0, 1], have rows of their own: the regions that the
            prototypes of the object and those of its background stand for, and single prototypes. Objects with id 0 are
            left out.
        class_names: text of the labels; class indices when left out.
        numbers: of the frames in their video; without them 0 and on.
        panels: see `Panel`; rows below each other, those whose map no instance has are left out.
        foreground: the first so many of the A maps are the object's, the others its background's; None: half of them.
        prototypes: so many are drawn alone of each of the two, those that take most of the object's boxes.
        rows: objects at most; those seen in most frames. A line tells if there are more.
        side: of a picture, pixels.

    Returns:
        (H', W', 3) uint8, BGR.

    Raises:
        ValueError: as `draw_film_strip`; a map has a shape that is no map's.
    """
    check_frames(frames, instances, "tracks")
    instances = [found[found.pred_ids > 0] for found in instances]
    sights = _Sights(frames, instances, panels, side)
    chosen = sights.longest(rows)
    styles, classes = sights.styles(chosen), _classes(instances)
    parts = [header(range(len(frames)) if numbers is None else numbers, [side] * len(frames))]
    width = parts[0].shape[1]
    for identity in chosen:
        seen, colour = sights.of[identity], id_colour(identity)
        name = class_names[classes[identity]] if class_names else f"class {classes[identity]}"
        parts.append(caption(f"{name} #{identity}   in {len(seen)} of {len(frames)} frames", width, colour))
        lines = {"": {position: sight.picture for position, sight in seen.items()}} if not styles else {}
        for title, style in styles.items():
            lines[title] = {position: sight.draw(style, title, colour) for position, sight in seen.items()}
        lines |= _attention_lines(seen, foreground, prototypes)
        nothing = np.full((side, side, 3), _BEYOND, np.uint8)
        parts += [row(title, [line.get(t, nothing) for t in range(len(frames))]) for title, line in lines.items()]
    if len(sights.of) > rows or not sights.of:
        parts.append(caption(f"{rows} of {len(sights.of)} objects" if sights.of else "no objects", width))
    return stack(parts)


def _attention_lines(
    seen: dict[int, _Sight], foreground: int | None, prototypes: int
) -> dict[str, dict[int, np.ndarray]]:
    """Pictures by title and position of the frame."""
    looks = {position: sight.attention for position, sight in seen.items() if sight.attention is not None}
    if not looks:
        return {}
    count = len(next(iter(looks.values())))
    split = count // 2 if foreground is None else foreground
    lines: dict[str, dict[int, np.ndarray]] = {}
    for part, start, end in (("object", 0, split), ("background", split, count)):
        if end == start:
            continue
        single = end == start + 1
        maps = {position: values[start:end] for position, values in looks.items()}
        pictures = [seen[position].picture for position in maps]
        if not single:
            regions = map(paint_regions, pictures, maps.values())
            lines[f"regions of the {part}'s prototypes"] = dict(zip(maps, regions, strict=True))
        inside = [np.nan_to_num(values) for values in maps.values()]
        for index in most_attended(inside, 1 if single else prototypes):
            drawn, scale = paint_shares(pictures, [values[index] for values in maps.values()])
            name = "" if single else f", prototype {index}"
            lines[f"attention to the {part}{name}: {scale}"] = dict(zip(maps, drawn, strict=True))
    return lines


def _classes(instances: Iterable[Instances]) -> dict[int, int]:
    """The class that each object has in most frames, by its id."""
    votes: dict[int, Counter[int]] = {}
    for found in instances:
        for identity, label in zip(found.pred_ids.tolist(), found.pred_classes.tolist(), strict=True):
            votes.setdefault(identity, Counter())[label] += 1
    return {identity: counter.most_common(1)[0][0] for identity, counter in votes.items()}
