"""Hiding a target by a moving shape, to a degree that is chosen beforehand."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from .motion import MOTIONS, Path, sample_path
from .shapes import STROKE_FRAME_WIDTH, Shape, blob, box_of, radius_of, stroke

FAMILIES = ("track", "stroke", "blob")

# Least and greatest radius relative to the target's. Bounds of the search, not of what is found.
_RADII = {"track": (0.4, 1.2), "stroke": (0.15, 3.0), "blob": (0.15, 3.0)}

# Draws the silhouettes of another track for so many frames.
DrawTrack = Callable[[np.random.Generator, int], Shape]


@dataclass(frozen=True, kw_only=True)
class OcclusionRules:
    """What occlusions are made.

    Attributes:
        families: chance of an occluder being another track, a stroke, or a blob. Where there is no other track, the
            other two share its chance.
        motions: chance of it being locked to the target, drifting about it, or passing over it.
        degrees: bounds of the bins, drawn with equal chance, of the mean share of the target's area that is hidden.
        tolerance: the mean share comes this close to the one that is drawn in the bin.
        most: the greatest share in any frame.
        hidden: from this share on, a frame counts as occluded.
        frames_hidden: at least this share of the frames is occluded.
        steps: of the bisection of the occluder's size.
        tries: of other shapes and paths, until the target is given up; the family and the motion are drawn anew after
            each quarter.
    """

    families: tuple[float, float, float] = (0.5, 0.3, 0.2)
    motions: tuple[float, float, float] = (0.2, 0.4, 0.4)
    degrees: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7)
    tolerance: float = 0.05
    most: float = 0.9
    hidden: float = 0.05
    frames_hidden: float = 0.6
    steps: int = 12
    tries: int = 40

    def __post_init__(self):
        for name in ("families", "motions"):
            chances = getattr(self, name)
            if len(chances) != 3 or min(chances) < 0 or not np.isclose(sum(chances), 1):
                raise ValueError(f"{name} must be three chances that sum to 1, got {chances}")
        degrees = self.degrees
        if len(degrees) < 2 or list(degrees) != sorted(set(degrees)) or not 0 <= degrees[0] <= degrees[-1] < self.most:
            raise ValueError(f"degrees must rise from 0 or more to less than most={self.most}, got {degrees}")

    def bin_of(self, degree: float) -> int:
        """Number of the bin of a degree; the last one has its upper bound, -1 stands for outside."""
        inside = self.degrees[0] <= degree <= self.degrees[-1]
        return (
            min(int(np.searchsorted(self.degrees, degree, side="right")) - 1, len(self.degrees) - 2) if inside else -1
        )

    def bins(self) -> list[str]:
        """The bins in words, `[0.1, 0.3)` and on."""
        last = len(self.degrees) - 2
        return [
            f"[{low:g}, {high:g}{']' if number == last else ')'}"
            for number, (low, high) in enumerate(zip(self.degrees[:-1], self.degrees[1:], strict=True))
        ]


@dataclass(frozen=True, eq=False)
class Occlusion:
    """An occluder in T frames, and what it does.

    Attributes:
        masks: (T, H, W) bool.
        shape: what was drawn.
        centres: (T, 2) xy of its middle, pixels.
        radius: half of its side, pixels.
        family: one of `FAMILIES`.
        motion: one of `MOTIONS`.
        covered: (T,) hidden share of the target.
    """

    masks: np.ndarray
    shape: Shape
    centres: np.ndarray
    radius: float
    family: str
    motion: str
    covered: np.ndarray

    @property
    def degree(self) -> float:
        """Mean hidden share."""
        return float(self.covered.mean())


@dataclass(eq=False)
class _Target:
    """Masks (T, H, W) bool, none of them empty, and where they are."""

    masks: np.ndarray
    middles: np.ndarray = field(init=False)
    radius: float = field(init=False)

    def __post_init__(self):
        self._boxes = [box_of(mask) for mask in self.masks]
        self._cuts = [mask[box] for mask, box in zip(self.masks, self._boxes, strict=True)]
        self._corners = np.array([(columns.start, rows.start) for rows, columns in self._boxes])
        self._areas = np.array([cut.sum() for cut in self._cuts])
        self.radius = radius_of(self._cuts)
        inside = [np.argwhere(cut).mean(axis=0)[::-1] for cut in self._cuts]
        self.middles = np.array(inside) + self._corners

    def covered(self, shape: Shape, path: Path, radius: float) -> np.ndarray:
        """(T,) hidden shares; only the target's boxes are drawn."""
        centres = self.middles + path(radius) - self._corners
        drawn = [shape.draw(t, centres[t], radius, cut.shape) for t, cut in enumerate(self._cuts)]
        return np.array([(one & cut).sum() for one, cut in zip(drawn, self._cuts, strict=True)]) / self._areas

    def hide(self, shape: Shape, path: Path, radius: float, family: str, motion: str) -> Occlusion:
        centres = self.middles + path(radius)
        size = self.masks.shape[1:]
        masks = np.stack([shape.draw(t, centre, radius, size) for t, centre in enumerate(centres)])
        covered = (masks & self.masks).sum(axis=(1, 2)) / self._areas
        return Occlusion(masks, shape, centres, radius, family, motion, covered)


def occlude(
    masks: np.ndarray, rng: np.random.Generator, rules: OcclusionRules, draw_track: DrawTrack | None = None
) -> Occlusion | None:
    """Find an occluder of a target.

    Args:
        masks: (T, H, W) bool, of the target, none of them empty.
        rng: where chance comes from.
        rules: what to make.
        draw_track: where tracks that hide it come from; None if there are none.

    Returns:
        None when no try keeps all rules.

    Raises:
        ValueError: the target is empty in a frame.
    """
    if not masks.any(axis=(1, 2)).all():
        raise ValueError(f"the target is empty in frame {int(np.argmin(masks.any(axis=(1, 2))))}")
    target = _Target(masks)
    low, high = _draw_bin(rng, rules)
    families = np.array(rules.families) * (draw_track is not None, 1, 1)
    if not families.any():
        return None
    for attempt in range(rules.tries):
        if attempt % max(1, rules.tries // 4) == 0:
            family = FAMILIES[rng.choice(3, p=families / families.sum())]
            motion = MOTIONS[rng.choice(3, p=rules.motions)]
        unit = masks.shape[2] / STROKE_FRAME_WIDTH
        path = sample_path(motion, rng, len(masks), target.radius, unit)
        shape = draw_track(rng, len(masks)) if family == "track" else _drawn(family, rng, len(masks))
        radius = _bisect(target, shape, path, _RADII[family], rng.uniform(low, high), rules)
        if radius is None:
            continue
        found = target.hide(shape, path, radius, family, motion)
        occluded = found.covered >= rules.hidden
        in_bin = rules.bin_of(found.degree) == rules.bin_of(low)
        if in_bin and found.covered.max() <= rules.most and occluded.mean() >= rules.frames_hidden:
            return found
    return None


def _draw_bin(rng: np.random.Generator, rules: OcclusionRules) -> tuple[float, float]:
    number = rng.integers(len(rules.degrees) - 1)
    return rules.degrees[number], rules.degrees[number + 1]


def _drawn(family: str, rng: np.random.Generator, length: int) -> Shape:
    return stroke(rng, length) if family == "stroke" else blob(rng, length)


def _bisect(
    target: _Target, shape: Shape, path: Path, radii: tuple[float, float], wanted: float, rules: OcclusionRules
) -> float | None:
    """The radius that hides the wanted mean share; None if no radius within the bounds comes close."""
    low, high = (bound * target.radius for bound in radii)
    for _ in range(rules.steps):
        radius = (low + high) / 2
        away = target.covered(shape, path, radius).mean() - wanted
        if abs(away) <= rules.tolerance / 2:
            return radius
        low, high = (radius, high) if away < 0 else (low, radius)
    return radius if abs(away) <= rules.tolerance else None
