"""Moving objects before a moving camera, as plain parameters: the plan of a video, and where its surfaces go.

A plan holds one `SceneObject` per object and frame, so all that `scene` says of objects holds for every frame. A point
of an object keeps its material coordinates for the whole video: `to_pixels` and `to_material` carry it from frame to
frame exactly, through motion, zoom, stretch and deformation.
"""

from dataclasses import dataclass, field, replace

import numpy as np

from .outlines import CATEGORIES, deform
from .scene import Color, Look, SceneObject, sample_background, sample_object

# Frames from one waypoint of a path to the next, and the top speed between them in frame sides per frame.
_SEGMENT = 6
_SPEED = 0.05

# What drifts over time and how far it goes between two waypoints (standard deviation).
_DRIFTS = {
    "size": 0.07,  # of the logarithm
    "angle": 0.3,  # radians
    "stretch": 0.05,  # of the logarithm
    "shear": 0.05,
    "bend": 0.05,
    "waves": 0.15,  # of the logarithm of the amplitudes
    "light_x": 0.06,
    "light_y": 0.06,
    "gain": 0.06,  # of the logarithm of the brightness
}


@dataclass(frozen=True, eq=False)
class VideoPlan:
    """All that a video is drawn from. N objects, T frames.

    Attributes:
        height: in pixels.
        width: in pixels.
        objects: N tuples of T states each, nearest object first; the order in depth holds for the whole video.
        ids: identity of each object, 1 to N in no order of depth.
        views: (T, 2, 3) float64, the camera: affine maps from the plane of the background to pixels.
        gains: (T, 3) float64, factors of the exposure per BGR channel.
        background: surface of the plane, in units of half the shorter side of the frame, from its middle.
        clutter: strokes on the plane: (x1, y1, x2, y2, thickness, BGR), in pixels of the identity view.
        noise: standard deviation of the sensor's noise, in grey levels.
        noise_seed: of the noise; every frame has its own.
    """

    height: int
    width: int
    objects: tuple[tuple[SceneObject, ...], ...]
    ids: tuple[int, ...]
    views: np.ndarray
    gains: np.ndarray
    background: Look
    clutter: tuple[tuple[float, float, float, float, float, Color], ...] = ()
    noise: float = 0.0
    noise_seed: int = 0

    @property
    def frames(self) -> int:
        """Number of frames."""
        return len(self.views)


def to_pixels(item: SceneObject, points: np.ndarray) -> np.ndarray:
    """Pixel coordinates (n, 2) xy of the points of an object with material coordinates `points` (n, 2).

    Material coordinates are those of the category's undeformed outline (`unit_outline`).
    """
    (deformed,) = deform([points], item.bend, item.waves)
    return deformed @ item.pose().T + item.center


def to_material(item: SceneObject, points: np.ndarray) -> np.ndarray:
    """The inverse of `to_pixels`: material coordinates (n, 2) of pixel coordinates `points` (n, 2) xy."""
    bent = (points - item.center) @ np.linalg.inv(item.pose()).T
    straight = np.stack([bent[:, 0], bent[:, 1] - item.bend * bent[:, 0] ** 2], axis=1)
    if not item.waves:
        return straight
    # The waves scale along the radius, which leaves the angle as it is.
    angle = np.arctan2(straight[:, 1], straight[:, 0])
    factor = 1.0 + sum(amplitude * np.cos(order * angle + phase) for order, amplitude, phase in item.waves)
    return straight / factor[:, None]


def view_between(views: np.ndarray, start: int, end: int) -> np.ndarray:
    """(2, 3) affine map that takes the background's pixels in frame `start` to their place in frame `end`."""
    first, second = (np.vstack([views[frame], [0.0, 0.0, 1.0]]) for frame in (start, end))
    return (second @ np.linalg.inv(first))[:2]


def smooth(knots: np.ndarray, frames: int) -> np.ndarray:
    """Values (frames, ...) at equal steps along the Catmull-Rom spline through `knots` (k, ...), k >= 2."""
    ends = np.concatenate([[2 * knots[0] - knots[1]], knots, [2 * knots[-1] - knots[-2]]])
    at = np.linspace(0.0, len(knots) - 1, frames)
    index = np.minimum(at.astype(int), len(knots) - 2)
    s = (at - index).reshape(-1, *[1] * (knots.ndim - 1))
    before, start, end, after = (ends[index + k] for k in range(4))
    slope, next_slope = (end - before) / 2, (after - start) / 2
    cubic = 2 * (start - end) + slope + next_slope
    square = 3 * (end - start) - 2 * slope - next_slope
    return ((cubic * s + square) * s + slope) * s + start


@dataclass
class _Draft:
    """An object while its path is laid out; lengths in units of the frame's shorter side."""

    category: int
    radius: float
    depth: float
    way: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))


def _walk(rng: np.random.Generator, at: np.ndarray, knot: int, knots: int, reach: float, extent: np.ndarray):
    """Waypoints (knots, 2) that pass `at` at index `knot`; all others lie inside the frame."""
    way = np.tile(at, (knots, 1))
    margin = 0.06
    for step in (-1, 1):
        for index in range(knot + step, knots if step > 0 else -1, step):
            for _ in range(20):
                angle, length = rng.uniform(0, 2 * np.pi), reach * rng.uniform(0.4, 1.0)
                way[index] = way[index - step] + length * np.array([np.cos(angle), np.sin(angle)])
                if (way[index] >= margin).all() and (way[index] <= extent - margin).all():
                    break
            way[index] = np.clip(way[index], margin, extent - margin)
    return way


def _outside(rng: np.random.Generator, radius: float, extent: np.ndarray) -> np.ndarray:
    """A place from which an object of this radius cannot be seen."""
    axis, far = int(rng.integers(2)), bool(rng.integers(2))
    place = extent * rng.uniform(0.2, 0.8, 2)
    distance = 2.0 * radius
    place[axis] = extent[axis] + distance if far else -distance
    return place


def _meet(rng: np.random.Generator, draft: _Draft, drafts: list[_Draft], knot: int) -> np.ndarray:
    """The place of another object at waypoint `knot`, or one beside it; `draft` may go right behind that object."""
    kin = [other for other in drafts if other.category == draft.category]
    others = kin if kin and rng.random() < 0.6 else drafts
    other = others[rng.integers(len(others))]
    beside = rng.uniform(0.1, 0.8)
    if rng.random() < 0.5:
        # Small and right behind: hidden for some frames.
        draft.radius = max(0.065, other.radius * rng.uniform(0.5, 0.75))
        draft.depth = rng.uniform(other.depth, 1.0)
        beside = rng.uniform(0.0, 0.1)
    angle = rng.uniform(0, 2 * np.pi)
    return other.way[knot] + beside * (draft.radius + other.radius) * np.array([np.cos(angle), np.sin(angle)])


def _lay_out(rng: np.random.Generator, count: int, knots: int, reach: float, extent: np.ndarray) -> list[_Draft]:
    """Objects whose paths meet; some leave the frame at a waypoint between the first and the last, and return."""
    main = int(rng.integers(len(CATEGORIES)))
    # Two waypoints leave no time to go and come back.
    leavers = (rng.random(count) < 0.22) & (knots > 2)
    drafts: list[_Draft] = []
    for number in range(count):
        category = main if rng.random() < 0.45 else int(rng.integers(len(CATEGORIES)))
        draft = _Draft(category, radius=rng.uniform(0.085, 0.175), depth=rng.random())
        knot = int(rng.integers(1, knots - 1)) if knots > 2 else int(rng.integers(knots))
        present = [other for other in drafts if (other.way[knot] > 0).all() and (other.way[knot] < extent).all()]
        if leavers[number]:
            at = _outside(rng, draft.radius, extent)
        elif present and rng.random() < 0.9:
            at = _meet(rng, draft, present, knot)
        else:
            at = rng.uniform(0.15, extent - 0.15)
        draft.way = _walk(rng, at, knot, knots, reach, extent)
        drafts.append(draft)
    return drafts


def _drift(rng: np.random.Generator, knots: int, frames: int) -> dict[str, np.ndarray]:
    """Random smooth changes (frames,) of everything in `_DRIFTS`, zero at first, within three standard deviations."""
    spread = np.array(list(_DRIFTS.values()))
    steps = rng.standard_normal((knots, len(spread))) * spread
    steps[0] = 0.0
    values = smooth(np.clip(np.cumsum(steps, axis=0), -3 * spread, 3 * spread), frames)
    return dict(zip(_DRIFTS, values.T, strict=True))


def _states(rng: np.random.Generator, base: SceneObject, centers: np.ndarray, cameras: np.ndarray, knots: int):
    """The object at every frame: at `centers` (T, 2), zoomed and turned as `cameras` (T, 4) say, with its own drift."""
    drift = _drift(rng, knots, len(centers))
    states = []
    for frame, (x, y) in enumerate(centers):
        now = {name: float(values[frame]) for name, values in drift.items()}
        gain = np.exp(now["gain"])
        look = replace(
            base.look,
            colors=tuple(tuple(gain * channel for channel in color) for color in base.look.colors),
            light=(base.look.light[0] + now["light_x"], base.look.light[1] + now["light_y"]),
        )
        swell = np.exp(now["waves"])
        states.append(
            replace(
                base,
                center=(float(x), float(y)),
                radius=float(base.radius * np.exp(now["size"] + cameras[frame, 2])),
                look=look,
                angle=float(base.angle + now["angle"] + cameras[frame, 3]),
                stretch=float(base.stretch * np.exp(now["stretch"])),
                shear=base.shear + now["shear"],
                bend=base.bend + now["bend"] if base.waves else 0.0,
                waves=tuple((order, float(swell * amplitude), phase) for order, amplitude, phase in base.waves),
            )
        )
    return tuple(states)


def _view_matrices(cameras: np.ndarray, extent: np.ndarray) -> np.ndarray:
    """(T, 2, 3) maps from the plane to the picture; `cameras` (T, 4) = shift x, shift y, log zoom, roll."""
    zoom, roll = np.exp(cameras[:, 2]), cameras[:, 3]
    cos, sin = zoom * np.cos(roll), zoom * np.sin(roll)
    turn = np.stack([np.stack([cos, -sin], axis=1), np.stack([sin, cos], axis=1)], axis=1)
    middle = extent / 2
    shift = cameras[:, :2] + middle - turn @ middle
    return np.concatenate([turn, shift[..., None]], axis=2)


def _sample_cameras(rng: np.random.Generator, knots: int) -> np.ndarray:
    """(knots, 4) of shift x, shift y, log zoom, roll; one camera in six stands still."""
    steps = rng.standard_normal((knots, 4)) * (0.07, 0.07, 0.04, 0.03)
    steps[0] = 0.0
    moving = rng.random() >= 1 / 6
    return np.clip(np.cumsum(steps, axis=0), -0.3, 0.3) * moving


def _sample_clutter(rng: np.random.Generator, side: float, extent: np.ndarray) -> tuple:
    """Dull strokes all over the part of the plane that a camera may come to see."""
    strokes = []
    for _ in range(int(rng.integers(6, 16))):
        x1, y1 = rng.uniform(-0.4, extent + 0.4) * side
        x2, y2 = np.array([x1, y1]) + rng.uniform(-0.7, 0.7, 2) * side
        thickness = rng.uniform(0.008, 0.03) * side
        strokes.append((float(x1), float(y1), float(x2), float(y2), float(thickness), sample_background(rng).colors[0]))
    return tuple(strokes)


def sample_video(rng: np.random.Generator, frames: int, height: int, width: int) -> VideoPlan:
    """A random plan: five to eight objects whose paths cross, some that leave the frame and return, a moving camera.

    Args:
        rng: the only source of chance; the same state gives the same plan.
        frames: number of frames, at least 2. Longer videos have longer paths, not slower ones.
        height: in pixels.
        width: in pixels; sizes and speeds follow the shorter side.
    """
    side = min(height, width)
    extent = np.array([width, height]) / side
    knots = max(2, round((frames - 1) / _SEGMENT) + 1)
    drafts = _lay_out(rng, int(rng.integers(5, 9)), knots, _SPEED * (frames - 1) / (knots - 1), extent)
    camera_knots = _sample_cameras(rng, knots)
    cameras = smooth(camera_knots, frames)
    views, knot_views = _view_matrices(cameras, extent), _view_matrices(camera_knots, extent)

    tracks = []
    for draft in drafts:
        # Waypoints are places in the picture; in between, objects share the motion of the camera.
        plane = np.stack([np.linalg.solve(v[:, :2], p - v[:, 2]) for v, p in zip(knot_views, draft.way, strict=True)])
        centers = np.einsum("tij,tj->ti", views[..., :2], smooth(plane, frames)) + views[..., 2]
        base = sample_object(rng, draft.category, (0.0, 0.0), draft.radius * side)
        tracks.append(_states(rng, base, centers * side, cameras, knots))

    background = sample_background(rng)
    while background.texture == "plain":
        background = sample_background(rng)
    exposure = rng.normal(0, 0.05, 3) + smooth(np.cumsum(rng.normal(0, 0.04, (knots, 1)), axis=0), frames)
    order = sorted(range(len(drafts)), key=lambda number: drafts[number].depth)
    views[..., 2] *= side
    return VideoPlan(
        height=height,
        width=width,
        objects=tuple(tracks[number] for number in order),
        ids=tuple(number + 1 for number in order),
        views=views,
        gains=np.exp(np.clip(exposure, -0.25, 0.25)),
        # Half the light of a still picture: a pan sees more of the plane than one frame.
        background=replace(background, light=(background.light[0] / 2, background.light[1] / 2)),
        clutter=_sample_clutter(rng, side, extent),
        noise=float(rng.uniform(0.5, 3.0)),
        noise_seed=int(rng.integers(2**31)),
    )
