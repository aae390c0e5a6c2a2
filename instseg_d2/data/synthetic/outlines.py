"""The ten OccShapes categories: their names, hues and outlines as closed contours in object coordinates."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

# Contours are sampled this densely, so that a bent or warped edge still looks smooth.
_POINTS = 120

Contours = list[np.ndarray]


def _closed(corners: np.ndarray | list, points: int = _POINTS) -> np.ndarray:
    """Points at equal steps of arc length along the closed polygon `corners`; (points, 2)."""
    corners = np.asarray(corners, dtype=np.float64)
    ends = np.concatenate([corners, corners[:1]])
    position = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(ends, axis=0).T))])
    at = np.linspace(0.0, position[-1], points, endpoint=False)
    return np.stack([np.interp(at, position, ends[:, axis]) for axis in (0, 1)], axis=1)


def _polar(radius: np.ndarray, angle: np.ndarray) -> np.ndarray:
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _turn(points: int = _POINTS, offset: float = 0.0) -> np.ndarray:
    return np.linspace(0.0, 2 * np.pi, points, endpoint=False) + offset


def _blend(low: float, high: float, t: float) -> float:
    return low + (high - low) * t


def _disc(p: float, q: float) -> Contours:
    return [_polar(np.ones(_POINTS), _turn()) * (1.0, _blend(0.65, 1.0, p))]


def _triangle(p: float, q: float) -> Contours:
    return [_closed([(_blend(-0.35, 0.35, p), -_blend(0.8, 1.2, q)), (0.9, 0.6), (-0.9, 0.6)])]


def _star(p: float, q: float) -> Contours:
    radius = np.where(np.arange(10) % 2 == 0, 1.0, _blend(0.36, 0.5, p))
    return [_closed(_polar(radius, _turn(10, -np.pi / 2)))]


def _ring(p: float, q: float) -> Contours:
    inner = _blend(0.42, 0.62, p)
    circle = _polar(np.ones(_POINTS), _turn()) * (1.0, _blend(0.75, 1.0, q))
    return [circle, circle * inner]


def _cross(p: float, q: float) -> Contours:
    arm, half = 1.0, _blend(0.22, 0.34, p)
    quarter = np.array([(half, -half), (arm, -half), (arm, half)])
    turns = [np.linalg.matrix_power(np.array([[0, -1], [1, 0]]), k) for k in range(4)]
    return [_closed(np.concatenate([quarter @ turn.T for turn in turns]))]


def _crescent(p: float, q: float) -> Contours:
    # The unit circle from tip to tip, and back along the flatter circle through the tips and (bite, 0).
    tip, bite = np.deg2rad(_blend(50, 65, q)), _blend(-0.25, 0.0, p)
    middle = (1 - bite**2) / (2 * (np.cos(tip) - bite))
    back = np.arctan2(np.sin(tip), np.cos(tip) - middle)
    outer = _polar(np.ones(60), np.linspace(tip, 2 * np.pi - tip, 60))
    inner = _polar(np.full(58, middle - bite), np.linspace(2 * np.pi - back, back, 60)[1:-1])
    return [_closed(np.concatenate([outer, inner + (middle, 0.0)]))]


def _heart(p: float, q: float) -> Contours:
    t = _turn()
    x = 16 * np.sin(t) ** 3 * _blend(0.9, 1.1, p)
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return [np.stack([x, y], axis=1)]


def _arrow(p: float, q: float) -> Contours:
    shaft, neck = _blend(0.16, 0.28, p), _blend(-0.1, 0.25, q)
    return [_closed([(-1, -shaft), (neck, -shaft), (neck, -0.7), (1, 0), (neck, 0.7), (neck, shaft), (-1, shaft)])]


def _blossom(p: float, q: float) -> Contours:
    petals = 5 + int(q * 2.999)
    angle = _turn(180)
    return [_polar(1 + _blend(0.28, 0.4, p) * np.cos(petals * angle), angle)]


def _bolt(p: float, q: float) -> Contours:
    cut = _blend(0.05, 0.2, p)
    corners = [(0.35, -1), (-0.55, cut), (-0.05, cut), (-0.35, 1), (0.55, -cut), (0.05, -cut)]
    return [_closed(np.array(corners) * (1.15, 1.0))]


@dataclass(frozen=True)
class Category:
    """One kind of object: `hue` in degrees is the middle of its range, `outline` takes two proportions in [0, 1]."""

    name: str
    seen: bool
    hue: float
    outline: Callable[[float, float], Contours]


# Hues of the two groups alternate, so that neither group owns one half of the colour circle.
CATEGORIES = (
    Category("disc", True, 0.0, _disc),
    Category("triangle", True, 72.0, _triangle),
    Category("star", True, 144.0, _star),
    Category("ring", True, 216.0, _ring),
    Category("cross", True, 288.0, _cross),
    Category("crescent", False, 36.0, _crescent),
    Category("heart", False, 324.0, _heart),
    Category("arrow", False, 108.0, _arrow),
    Category("blossom", False, 252.0, _blossom),
    Category("bolt", False, 180.0, _bolt),
)

SEEN = tuple(category.name for category in CATEGORIES if category.seen)
UNSEEN = tuple(category.name for category in CATEGORIES if not category.seen)


def _signed_area(contour: np.ndarray) -> float:
    x, y = contour.T
    return 0.5 * float(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)))


def unit_outline(category: int, proportions: tuple[float, float]) -> Contours:
    """The outline of `CATEGORIES[category]`, with the area of the unit disc and its box centred at the origin.

    Args:
        category: index into `CATEGORIES`.
        proportions: two numbers in [0, 1] that vary the outline within its category.

    Returns:
        Contours (points, 2) as xy, y down. A second contour is a hole (even-odd rule).
    """
    contours = CATEGORIES[category].outline(*proportions)
    area = abs(_signed_area(contours[0])) - sum(abs(_signed_area(hole)) for hole in contours[1:])
    middle = (contours[0].min(axis=0) + contours[0].max(axis=0)) / 2
    return [(contour - middle) * np.sqrt(np.pi / area) for contour in contours]


def deform(contours: Contours, bend: float, waves: tuple[tuple[int, float, float], ...]) -> Contours:
    """Bend the outline into an arc and push it in and out along the radius.

    Args:
        contours: as `unit_outline` gives them.
        bend: y grows by `bend * x**2`; 0 leaves it straight.
        waves: triples (order, amplitude, phase): the radius is multiplied by `1 + sum(a * cos(order * angle + phase))`.
    """
    result = []
    for contour in contours:
        x, y = contour.T
        angle = np.arctan2(y, x)
        factor = 1.0 + sum(amplitude * np.cos(order * angle + phase) for order, amplitude, phase in waves)
        result.append(np.stack([x * factor, y * factor + bend * (x * factor) ** 2], axis=1))
    return result
