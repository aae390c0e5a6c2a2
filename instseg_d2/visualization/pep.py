"""What PEP saw: original instances, key pixels around them, which descriptors it took for the same object, masks."""

from collections.abc import Sequence

import cv2
import numpy as np
from detectron2.structures import Instances

from instseg_d2.modeling.meta_arch.pep.model import Mining

from .overlay import draw_instances, instance_colours, line_thickness
from .sheet import side_by_side

_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)


def draw_mining(
    image: np.ndarray,
    mining: Mining,
    instances: Instances,
    class_names: Sequence[str] | None = None,
    *,
    score_threshold: float = 0.3,
    enlarge: int = 1,
) -> np.ndarray:
    """Draw PEP's three steps and the result next to each other.

    A colour is a group: original instances are discs, mined ones diamonds with a line from the original that they were
    found at, and what was merged has one colour, that of its rows in the matrix of similarities. There rows are sorted
    by group, groups of two and more are outlined, and colours go from dark (0) to yellow (1).

    Args:
        image: (H, W, 3) uint8, BGR, of the size of the instances; it is not changed.
        mining: of a model with `keep_aux`, from the same image.
        instances: its predictions.
        class_names: text of the labels; class indices when left out.
        score_threshold: predictions below it are not drawn; in [0, 1].
        enlarge: draw on the image enlarged by this factor.

    Returns:
        One (H', W', 3) uint8 BGR picture of up to four panels; without excavating or purifying their panel is missing.
    """
    canvas = cv2.resize(image, None, fx=enlarge, fy=enlarge, interpolation=cv2.INTER_CUBIC)
    height, width = mining.originals.image_size
    scale = np.array([canvas.shape[1] / width, canvas.shape[0] / height])
    groups = mining.groups.cpu().numpy()
    leaders = np.unique(groups)
    palette = dict(zip(leaders.tolist(), instance_colours(np.arange(len(leaders))), strict=True))
    colours = [palette[group] for group in groups.tolist()]
    panels = {f"{len(mining.originals)} originals": _draw_nodes(canvas, mining, scale, colours, mined=False)}
    if mining.key_maps is not None:
        heated = _draw_key_maps(canvas, mining, scale)
        count = int((mining.nodes.sources >= 0).sum())
        panels[f"key pixels and {count} mined"] = _draw_nodes(heated, mining, scale, colours, mined=True)
    if mining.similarity is not None and len(groups):
        panels[f"similarity: {len(groups)} in {len(leaders)} groups"] = _draw_matrix(mining, colours, len(canvas))
    panels["instances"] = draw_instances(
        image, instances, class_names, score_threshold=score_threshold, enlarge=enlarge
    )
    return side_by_side(list(panels.values()), list(panels))


def _draw_nodes(
    canvas: np.ndarray, mining: Mining, scale: np.ndarray, colours: Sequence[np.ndarray], *, mined: bool
) -> np.ndarray:
    """Draw the original instances, or the mined ones and where they come from, over a copy."""
    canvas = canvas.copy()
    radius = 2 + 2 * line_thickness(canvas)
    places = (mining.nodes.locations.cpu().numpy() * scale).round().astype(int)
    origins = (mining.originals.locations.cpu().numpy() * scale).round().astype(int)
    for place, source, colour in zip(places, mining.nodes.sources.tolist(), colours, strict=True):
        if (source >= 0) != mined:
            continue
        if mined:
            cv2.line(canvas, place.tolist(), origins[source].tolist(), colour, line_thickness(canvas), cv2.LINE_AA)
            corners = place + radius * np.array([[0, -1], [1, 0], [0, 1], [-1, 0]])
            cv2.fillPoly(canvas, [corners], colour, cv2.LINE_AA)
            cv2.polylines(canvas, [corners], True, _WHITE, 1, cv2.LINE_AA)
        else:
            cv2.circle(canvas, place.tolist(), radius, colour, cv2.FILLED, cv2.LINE_AA)
            cv2.circle(canvas, place.tolist(), radius, _WHITE, 1, cv2.LINE_AA)
    return canvas


def _draw_key_maps(canvas: np.ndarray, mining: Mining, scale: np.ndarray) -> np.ndarray:
    """Tint where the windows' maps are high, the highest of all windows a pixel, and draw the windows."""
    heat = np.zeros(canvas.shape[:2], np.float32)
    windows = mining.originals.windows.tensor.cpu().numpy() * np.tile(scale, 2)
    for window, values in zip(windows, mining.key_maps.float().cpu().numpy(), strict=True):
        x0, y0, x1, y1 = window
        step = np.array([x1 - x0, y1 - y0]) / values.shape[0]
        # From the middle of a cell to the picture: OpenCV counts pixels from their middle.
        matrix = np.array([[step[0], 0, x0 + step[0] / 2 - 0.5], [0, step[1], y0 + step[1] / 2 - 0.5]])
        np.maximum(heat, cv2.warpAffine(values, matrix, heat.shape[::-1], flags=cv2.INTER_LINEAR), out=heat)
    hot = cv2.applyColorMap((heat * 255).round().astype(np.uint8), cv2.COLORMAP_HOT)
    share = heat[:, :, None] * 0.8
    # Darkened, so that the maps are what shines.
    heated = (canvas * 0.6 * (1 - share) + hot * share).astype(np.uint8)
    for x0, y0, x1, y1 in windows.round().astype(int).tolist():
        cv2.rectangle(heated, (x0, y0), (x1, y1), (150, 150, 150), 1)
    return heated


def _draw_matrix(mining: Mining, colours: Sequence[np.ndarray], side: int) -> np.ndarray:
    """The similarities, rows sorted by group, with a strip of the groups' colours above and to the left."""
    groups = mining.groups.cpu().numpy()
    order = np.argsort(groups, kind="stable")
    values = mining.similarity.float().cpu().numpy()[order][:, order].clip(0, 1)
    count = len(values)
    cell = max(side // (count + 1), 2)
    picture = cv2.applyColorMap((values * 255).round().astype(np.uint8), cv2.COLORMAP_VIRIDIS)
    strip = np.array([colours[index] for index in order])
    picture = np.concatenate([strip[None], picture])
    picture = np.concatenate([np.concatenate([[[255, 255, 255]], strip])[:, None], picture], axis=1)
    picture = np.ascontiguousarray(picture.repeat(cell, axis=0).repeat(cell, axis=1), dtype=np.uint8)
    _, starts, sizes = np.unique(groups[order], return_index=True, return_counts=True)
    for start, size in zip(starts.tolist(), sizes.tolist(), strict=True):
        if size > 1:
            first, last = (start + 1) * cell, (start + size + 1) * cell - 1
            cv2.rectangle(picture, (first, first), (last, last), _BLACK, 3)
            cv2.rectangle(picture, (first, first), (last, last), _WHITE, 1)
    return picture
