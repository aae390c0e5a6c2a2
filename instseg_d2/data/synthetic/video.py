"""OccVideo: generated videos of objects that pass behind one another, with the exact truth of every frame.

A frame is composed from the layers that the truth consists of: the clean background, and each object's complete
appearance. So a frame without an occluder is known exactly: compose it without that layer (`Video.without`).
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from ..errors import DatasetError
from .motion import VideoPlan, sample_video, to_material, to_pixels, view_between
from .scene import Rendering, SceneObject, rasterize, surface

# The plane of the background is drawn this many times finer than the frames that look at it.
_PLANE_SCALE = 2
# Fractional bits of stroke ends for OpenCV.
_SHIFT = 4

# A pixel belongs to an object when it covers at least half of it, which is this alpha.
SOLID = 128


@dataclass(frozen=True, eq=False)
class Layer:
    """One object in one frame as if nothing were before it, cut to a window of the frame.

    Attributes:
        left: column of the window.
        top: row of the window.
        bgra: (h, w, 4) uint8: exposed colour, and the share of each pixel that the object covers times 255.
    """

    left: int
    top: int
    bgra: np.ndarray


@dataclass(frozen=True, eq=False)
class Video:
    """A drawn video and its truth: T frames of H x W pixels, N objects in the order of depth, nearest first.

    Attributes:
        plan: what it was drawn from.
        images: (T, H, W, 3) uint8 BGR, with the sensor's noise.
        backgrounds: (T, H, W, 3) uint8 BGR, the frames without objects and without noise.
        layers: T tuples of N layers; None for an object outside the frame.
        amodal: (T, N, H, W) bool, every object as if nothing were before it, cut at the frame.
        visible: (T, N, H, W) bool, amodal less the amodal masks of all nearer objects.
        covered: (T, N) float64 in [0, 1], hidden share of the amodal area; 1 for an object outside the frame.
        ids: (N,) int64, identities from 1 on; an object keeps its id while it is hidden or outside the frame.
        categories: (N,) int64, indices into `CATEGORIES`.
    """

    plan: VideoPlan
    images: np.ndarray
    backgrounds: np.ndarray
    layers: tuple[tuple[Layer | None, ...], ...]
    amodal: np.ndarray
    visible: np.ndarray
    covered: np.ndarray
    ids: np.ndarray
    categories: np.ndarray

    def number(self, identity: int) -> int:
        """Place in the order of depth of the object with this id; 0 is the nearest.

        Raises:
            DatasetError: no object has this id.
        """
        if identity not in self.plan.ids:
            raise DatasetError(f"no object {identity} in this video; its ids are {sorted(self.plan.ids)}")
        return self.plan.ids.index(identity)

    def rendering(self, frame: int) -> Rendering:
        """One frame with its truth, in the form of a still picture."""
        return Rendering(self.images[frame], self.amodal[frame], self.visible[frame], self.covered[frame])

    def layer(self, frame: int, identity: int) -> np.ndarray:
        """(H, W, 4) uint8 BGRA: the complete appearance of an object, transparent around it."""
        full = np.zeros((self.plan.height, self.plan.width, 4), dtype=np.uint8)
        layer = self.layers[frame][self.number(identity)]
        if layer is not None:
            height, width = layer.bgra.shape[:2]
            full[layer.top : layer.top + height, layer.left : layer.left + width] = layer.bgra
        return full

    def occluders(self, identity: int) -> tuple[int, ...]:
        """Ids of the objects that hide a part of this one in at least one frame, nearest first."""
        return tuple(int(other) for other in self.ids[self._hidden_by[self.number(identity)]])

    @cached_property
    def _hidden_by(self) -> np.ndarray:
        """(N, N) bool: row n marks the nearer objects whose amodal masks meet that of object n in some frame."""
        hidden_by = np.zeros((len(self.ids), len(self.ids)), dtype=bool)
        for number in range(len(self.ids)):
            meets = self.amodal[:, :number] & self.amodal[:, number, None]
            hidden_by[number, :number] = meets.any(axis=(0, 2, 3))
        return hidden_by

    def without(self, frame: int, leave_out: Collection[int] = ()) -> np.ndarray:
        """(H, W, 3) uint8 BGR: the frame as it would be without the objects of these ids, with the same noise.

        It equals the frame, bit by bit, wherever those objects cover nothing.
        """
        left_out = {self.number(identity) for identity in leave_out}
        kept = [layer for number, layer in enumerate(self.layers[frame]) if number not in left_out]
        return _photograph(self.plan, frame, self.backgrounds[frame], kept)

    def flow(self, frame: int, step: int = 1, leave_out: Collection[int] = ()) -> np.ndarray:
        """Exact optical flow of the visible surfaces: (H, W, 2) float32, xy in pixels.

        Args:
            frame: where the flow starts.
            step: to which frame, relative to it; 1 is forward, -1 backward.
            leave_out: ids of objects that are taken away first; without its occluders, an object's flow is complete.

        Raises:
            DatasetError: the video has no frame `frame` or `frame + step`.
        """
        if not (0 <= frame < self.plan.frames and 0 <= frame + step < self.plan.frames):
            raise DatasetError(f"no flow from frame {frame} to {frame + step} in a video of {self.plan.frames} frames")
        left_out = {self.number(identity) for identity in leave_out}
        rows, columns = np.mgrid[: self.plan.height, : self.plan.width] + 0.5
        start = np.stack([columns, rows], axis=2)
        move = view_between(self.plan.views, frame, frame + step)
        end = start @ move[:, :2].T + move[:, 2]
        nearer = np.zeros(start.shape[:2], dtype=bool)
        for number, states in enumerate(self.plan.objects):
            if number in left_out:
                continue
            seen = self.amodal[frame, number] & ~nearer
            nearer |= seen
            end[seen] = to_pixels(states[frame + step], to_material(states[frame], start[seen]))
        return (end - start).astype(np.float32)

    @cached_property
    def forward_flow(self) -> np.ndarray:
        """(T - 1, H, W, 2) float32: [t] leads from frame t to frame t + 1; computed when first asked for."""
        return np.stack([self.flow(frame, 1) for frame in range(self.plan.frames - 1)])

    @cached_property
    def backward_flow(self) -> np.ndarray:
        """(T - 1, H, W, 2) float32: [t] leads from frame t + 1 to frame t; computed when first asked for."""
        return np.stack([self.flow(frame, -1) for frame in range(1, self.plan.frames)])


def _blend(canvas: np.ndarray, bgra: np.ndarray) -> None:
    alpha = bgra[..., 3:].astype(np.float32) / np.float32(255)
    canvas += alpha * (bgra[..., :3].astype(np.float32) - canvas)


def composite(background: np.ndarray, layers: Iterable[np.ndarray]) -> np.ndarray:
    """Lay pictures with alpha over each other; what the written layers are for.

    Args:
        background: (H, W, 3) uint8 BGR.
        layers: (H, W, 4) uint8 BGRA each, nearest first (the order of depth of all truth here).

    Returns:
        (H, W, 3) float32 BGR. Rounded, it is the frame, but for the sensor's noise.
    """
    canvas = background.astype(np.float32)
    for bgra in reversed(list(layers)):
        _blend(canvas, bgra)
    return canvas


def _photograph(plan: VideoPlan, frame: int, background: np.ndarray, layers: list[Layer | None]) -> np.ndarray:
    """Compose a frame from its layers, nearest first, and add the noise of the sensor, the same for any layers."""
    canvas = background.astype(np.float32)
    for layer in reversed(layers):
        if layer is not None:
            height, width = layer.bgra.shape[:2]
            _blend(canvas[layer.top : layer.top + height, layer.left : layer.left + width], layer.bgra)
    if plan.noise:
        rng = np.random.default_rng([plan.noise_seed, frame])
        canvas += rng.standard_normal(canvas.shape, dtype=np.float32) * np.float32(plan.noise)
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def _expose(color: np.ndarray, gain: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(color * gain.astype(np.float32)), 0, 255).astype(np.uint8)


def _draw_layer(item: SceneObject, gain: np.ndarray, height: int, width: int) -> Layer | None:
    drawn = rasterize(item.contours(), height, width, item.look.rim)
    if drawn is None:
        return None
    left, top, share, brightness = drawn
    rows, columns = np.mgrid[top : top + share.shape[0], left : left + share.shape[1]] + 0.5
    points = to_material(item, np.stack([columns.ravel(), rows.ravel()], axis=1))
    u, v = np.ascontiguousarray(points.T, dtype=np.float32).reshape(2, *share.shape)
    bgra = np.zeros((*share.shape, 4), dtype=np.uint8)
    bgra[..., :3] = _expose(surface(item.look, u, v) * brightness[..., None], gain)
    bgra[..., 3] = np.rint(share * 255)
    bgra[bgra[..., 3] == 0] = 0
    return Layer(left, top, bgra)


def _draw_plane(plan: VideoPlan) -> tuple[np.ndarray, np.ndarray]:
    """The part of the background that the camera comes to see, (h, w, 3) uint8, and where (x, y) its corner lies."""
    corners = np.array([[x, y] for x in (0.0, plan.width) for y in (0.0, plan.height)])
    seen = np.stack([np.linalg.solve(view[:, :2], (corners - view[:, 2]).T).T for view in plan.views])
    low = np.floor(seen.min(axis=(0, 1))) - 1
    columns, rows = (_PLANE_SCALE * (np.ceil(seen.max(axis=(0, 1))) + 1 - low)).astype(int)
    unit = 2.0 / min(plan.height, plan.width)
    x = ((np.arange(columns) + 0.5) / _PLANE_SCALE + low[0] - plan.width / 2) * unit
    y = ((np.arange(rows) + 0.5) / _PLANE_SCALE + low[1] - plan.height / 2) * unit
    u, v = (np.ascontiguousarray(axis, dtype=np.float32) for axis in np.meshgrid(x, y))
    canvas = np.clip(np.rint(surface(plan.background, u, v)), 0, 255).astype(np.uint8)
    for x1, y1, x2, y2, thickness, color in plan.clutter:
        ends = (np.array([[x1, y1], [x2, y2]]) - low) * _PLANE_SCALE - 0.5
        first, second = np.round(ends * (1 << _SHIFT)).astype(int).tolist()
        thick = max(1, round(thickness * _PLANE_SCALE))
        cv2.line(canvas, first, second, color, thick, lineType=cv2.LINE_AA, shift=_SHIFT)
    return canvas, low


def _look_at(plane: np.ndarray, low: np.ndarray, view: np.ndarray, height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8: the plane as the camera sees it."""
    inverse = np.linalg.inv(view[:, :2])
    # From the index of a pixel to the index of a point of the drawn plane; indices are half a step from the corner.
    offset = (inverse @ (0.5 - view[:, 2]) - low) * _PLANE_SCALE - 0.5
    matrix = np.concatenate([inverse * _PLANE_SCALE, offset[:, None]], axis=1)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(plane, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)


def render_video(plan: VideoPlan) -> Video:
    """Draw a plan: layers first, then the frames from the layers, and the masks from their alpha."""
    height, width, count = plan.height, plan.width, len(plan.objects)
    plane, low = _draw_plane(plan)
    backgrounds, images, layers = [], [], []
    amodal = np.zeros((plan.frames, count, height, width), dtype=bool)
    for frame in range(plan.frames):
        gain = plan.gains[frame]
        backgrounds.append(_expose(_look_at(plane, low, plan.views[frame], height, width), gain))
        layers.append(tuple(_draw_layer(states[frame], gain, height, width) for states in plan.objects))
        images.append(_photograph(plan, frame, backgrounds[-1], layers[-1]))
        for number, layer in enumerate(layers[-1]):
            if layer is not None:
                rows, columns = layer.bgra.shape[:2]
                window = amodal[frame, number, layer.top : layer.top + rows, layer.left : layer.left + columns]
                window[...] = layer.bgra[..., 3] >= SOLID
    nearer = np.logical_or.accumulate(amodal, axis=1)
    visible = amodal.copy()
    visible[:, 1:] &= ~nearer[:, :-1]
    areas = amodal.sum(axis=(2, 3))
    return Video(
        plan=plan,
        images=np.stack(images),
        backgrounds=np.stack(backgrounds),
        layers=tuple(layers),
        amodal=amodal,
        visible=visible,
        covered=1.0 - visible.sum(axis=(2, 3)) / np.maximum(areas, 1),
        ids=np.array(plan.ids, dtype=np.int64),
        categories=np.array([states[0].category for states in plan.objects], dtype=np.int64),
    )


def occvideo_plan(seed: int, index: int, *, frames: int = 24, size: int | tuple[int, int] = 128) -> VideoPlan:
    """Plan of video number `index` of the set with this seed; it depends on the arguments alone.

    Args:
        seed: of the set, 0 or more.
        index: of the video, 0 or more.
        frames: number of frames, 2 or more.
        size: height and width in pixels, one number for both; 32 or more each.

    Raises:
        DatasetError: an argument is out of range.
    """
    height, width = (size, size) if isinstance(size, int) else tuple(size)
    if seed < 0 or index < 0 or frames < 2 or min(height, width) < 32:
        raise DatasetError(
            "seed and index must be 0 or more, frames 2 or more, height and width 32 or more; "
            f"got seed={seed}, index={index}, frames={frames}, size={height} x {width}"
        )
    return sample_video(np.random.default_rng([seed, index]), frames, height, width)


def occvideo(seed: int, index: int, *, frames: int = 24, size: int | tuple[int, int] = 128) -> Video:
    """Video number `index` of the set with this seed; see `occvideo_plan`."""
    return render_video(occvideo_plan(seed, index, frames=frames, size=size))
