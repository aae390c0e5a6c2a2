"""How an occluder moves, seen from the middle of its target."""

from collections.abc import Callable

import numpy as np

MOTIONS = ("locked", "drifting", "passing")

# From the radius of the occluder to its offset from the target's middle, (T, 2) xy pixels.
Path = Callable[[float], np.ndarray]


def sample_path(motion: str, rng: np.random.Generator, length: int, target: float, unit: float) -> Path:
    """A path of one of `MOTIONS`.

    A passing occluder lies beside the target in the first and the last frame: what it hides is seen at another time. It
    moves on slower in the middle, to hide more in all.

    Args:
        motion: "locked" to the target, "drifting" about it, or "passing" over it.
        rng: where chance comes from.
        length: number of frames.
        target: radius of the target, pixels.
        unit: pixels of the frame that count as one where speeds are given for small frames.

    Returns:
        The path, for any radius of the occluder.
    """
    if motion == "passing":
        return _passing(rng, length, target)
    angle, distance = rng.uniform(0, 2 * np.pi), 0.8 * target * np.sqrt(rng.random())
    start = distance * np.array([np.cos(angle), np.sin(angle)])
    offsets = np.tile(start, (length, 1)) if motion == "locked" else _drift(rng, start, length, target, unit)
    return lambda radius: offsets


def _drift(rng: np.random.Generator, start: np.ndarray, length: int, target: float, unit: float) -> np.ndarray:
    """A walk of the speeds of Free-form Video Inpainting that turns back at the target's radius."""
    speed, angle = abs(rng.normal(0, 5)) * unit, rng.uniform(0, 2 * np.pi)
    limit = min(8 * unit, target / 2)
    offsets = np.empty((length, 2))
    offsets[0] = start
    for frame in range(1, length):
        speed = min(abs(speed), limit)
        step = speed * np.array([np.cos(angle), np.sin(angle)])
        if np.hypot(*(offsets[frame - 1] + step)) > target:
            # Back to the middle.
            angle = np.arctan2(*-offsets[frame - 1][::-1])
            step = speed * np.array([np.cos(angle), np.sin(angle)])
        offsets[frame] = offsets[frame - 1] + step
        speed += rng.normal(0, 2.5) * unit
        angle += rng.normal(0, 0.25)
    return offsets


def _passing(rng: np.random.Generator, length: int, target: float) -> Path:
    angle, aside = rng.uniform(0, 2 * np.pi), rng.uniform(-0.4, 0.4) * target
    along = np.array([np.cos(angle), np.sin(angle)])
    across = np.array([-along[1], along[0]])
    time = np.linspace(-1, 1, length) if length > 1 else np.zeros(1)
    way = np.sign(time) * np.abs(time) ** rng.uniform(1.5, 4)

    def offsets(radius: float) -> np.ndarray:
        # Boxes of these radii may be longer than wide.
        reach = 1.5 * (target + radius)
        return way[:, None] * reach * along + aside * across

    return offsets
