"""Scenes of overlapping objects as plain parameters, and the drawing of a scene with its exact truth.

What is in a picture (`Scene`, `SceneObject`) and how it is drawn (`render`) are apart: a moved copy of an object,
made with `dataclasses.replace`, draws the same object elsewhere.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from .outlines import CATEGORIES, Contours, deform, unit_outline

TEXTURES = ("plain", "stripes", "checks", "dots", "rings", "blotches")

# Each object is drawn this many times finer than the image, and averaged down to its share of each pixel.
_SUPERSAMPLING = 4
# Fractional bits of polygon corners for OpenCV.
_SHIFT = 4

Color = tuple[float, float, float]


@dataclass(frozen=True)
class Look:
    """Surface of an object or of the background. Colours are BGR in 0..255; lengths are in units of the radius.

    Attributes:
        colors: the two colours between which the texture mixes.
        texture: one of `TEXTURES`.
        frequency: periods of the texture per unit length.
        direction: of the texture, in radians, relative to the object.
        phase: shift of the texture, in radians.
        light: (x, y) gradient of the brightness across the object.
        rim: share by which the border is darkened.
        grain: seed of the blotches.
    """

    colors: tuple[Color, Color]
    texture: str = "plain"
    frequency: float = 1.0
    direction: float = 0.0
    phase: float = 0.0
    light: tuple[float, float] = (0.0, 0.0)
    rim: float = 0.0
    grain: int = 0


@dataclass(frozen=True)
class SceneObject:
    """One object: what it is, where it is, how it is shaped and how it looks.

    Attributes:
        category: index into `CATEGORIES`.
        center: (x, y) in pixels; pixel (row, column) covers [column, column + 1) x [row, row + 1).
        radius: in pixels, of the disc that has the area of the undeformed object.
        angle: rotation in radians, clockwise on screen.
        stretch: the x axis is multiplied and the y axis divided by it, before the rotation.
        shear: x grows by `shear * y`, before the rotation.
        proportions: see `unit_outline`.
        bend, waves: see `deform`.
    """

    category: int
    center: tuple[float, float]
    radius: float
    look: Look
    angle: float = 0.0
    stretch: float = 1.0
    shear: float = 0.0
    proportions: tuple[float, float] = (0.5, 0.5)
    bend: float = 0.0
    waves: tuple[tuple[int, float, float], ...] = ()

    def pose(self) -> np.ndarray:
        """(2, 2) matrix from the deformed unit outline to pixels about the centre."""
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        shape = np.array([[self.stretch, self.shear], [0.0, 1.0 / self.stretch]])
        return self.radius * np.array([[cos, -sin], [sin, cos]]) @ shape

    def contours(self) -> Contours:
        """The outline in pixels: arrays (points, 2) as xy; a second contour is a hole."""
        outline = deform(unit_outline(self.category, self.proportions), self.bend, self.waves)
        return [contour @ self.pose().T + self.center for contour in outline]


@dataclass(frozen=True)
class Camera:
    """Photometric side of a picture: gain per BGR channel, blur in pixels, noise in grey levels and its seed."""

    gain: Color = (1.0, 1.0, 1.0)
    blur: float = 0.0
    noise: float = 0.0
    noise_seed: int = 0


@dataclass(frozen=True)
class Scene:
    """Objects in depth order, `objects[0]` nearest, before a background.

    Attributes:
        clutter: strokes on the background that belong to no object: (x1, y1, x2, y2, thickness, BGR), in pixels.
        shadow: share by which an object darkens what lies right behind it.
    """

    height: int
    width: int
    objects: tuple[SceneObject, ...]
    background: Look
    clutter: tuple[tuple[float, float, float, float, int, Color], ...] = ()
    shadow: float = 0.0
    camera: Camera = Camera()


@dataclass(frozen=True)
class Rendering:
    """A drawn scene and its truth, in the order of `Scene.objects`.

    Attributes:
        image: (H, W, 3) uint8, BGR.
        amodal: (N, H, W) bool, every object as if nothing were before it, cut at the frame.
        visible: (N, H, W) bool, amodal less the amodal masks of all nearer objects.
        covered: (N,) float64 in [0, 1], hidden share of the amodal area; 1 for an object outside the frame.
    """

    image: np.ndarray
    amodal: np.ndarray
    visible: np.ndarray
    covered: np.ndarray


def _pattern(look: Look, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Mixing weight of the second colour, float32 in [0, 1], at object coordinates `u`, `v`."""
    if look.texture == "plain":
        return np.zeros_like(u)
    if look.texture == "blotches":
        grid = np.random.default_rng(look.grain).random((9, 9), dtype=np.float32)
        scale = np.float32(2.0 * look.frequency)
        field = cv2.remap(grid, u * scale + 4, v * scale + 4, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        return np.clip(2.5 * field - 0.75, 0.0, 1.0)
    cos, sin = np.float32(np.cos(look.direction)), np.float32(np.sin(look.direction))
    omega, phase = np.float32(2 * np.pi * look.frequency), np.float32(look.phase)
    along, across = (u * cos + v * sin) * omega + phase, (v * cos - u * sin) * omega
    if look.texture == "stripes":
        wave = np.sin(along)
    elif look.texture == "checks":
        wave = np.sin(along) * np.sin(across) * 2
    elif look.texture == "dots":
        wave = np.cos(along) + np.cos(across) - np.float32(0.8)
    elif look.texture == "rings":
        wave = np.sin(np.sqrt(u * u + v * v) * omega + phase)
    else:
        raise ValueError(f"unknown texture '{look.texture}'; known: {', '.join(TEXTURES)}")
    return np.clip(np.float32(0.5) + np.float32(1.5) * wave, 0.0, 1.0)


def surface(look: Look, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Colours (h, w, 3) float32 at object coordinates `u`, `v`."""
    first, second = (np.array(color, dtype=np.float32) for color in look.colors)
    color = first + _pattern(look, u, v)[..., None] * (second - first)
    brightness = np.float32(1.0) + u * np.float32(look.light[0]) + v * np.float32(look.light[1])
    return color * brightness[..., None]


def _object_coordinates(item: SceneObject, left: int, top: int, width: int, height: int):
    """Rotated coordinates of the pixel centres of a window, in units of the radius."""
    x = (np.arange(left, left + width, dtype=np.float32) + np.float32(0.5 - item.center[0]))[None]
    y = (np.arange(top, top + height, dtype=np.float32) + np.float32(0.5 - item.center[1]))[:, None]
    cos, sin = np.float32(np.cos(item.angle) / item.radius), np.float32(np.sin(item.angle) / item.radius)
    return x * cos + y * sin, y * cos - x * sin


def _coverage(corners: list[np.ndarray], width: int, height: int, rim: float) -> tuple[np.ndarray, np.ndarray]:
    """Share of each pixel inside the contours, and brightness of the object there; two (height, width) float32."""
    fine = np.zeros((height * _SUPERSAMPLING, width * _SUPERSAMPLING), dtype=np.uint8)
    cv2.fillPoly(fine, corners, 255, lineType=cv2.LINE_8, shift=_SHIFT)
    # OpenCV fills every fine pixel that the border touches; on average half of such a pixel lies inside.
    cv2.polylines(fine, corners, True, 128, thickness=1, lineType=cv2.LINE_8, shift=_SHIFT)
    share = cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    if not rim:
        return share, np.ones_like(share)
    line = np.zeros_like(fine)
    cv2.polylines(line, corners, True, 255, thickness=2 * _SUPERSAMPLING, lineType=cv2.LINE_8, shift=_SHIFT)
    border = cv2.resize(line, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
    return share, 1 - border * np.float32(rim / 255)


def rasterize(contours: Contours, height: int, width: int, rim: float = 0.0):
    """Left and top of the window of a frame that contours touch, with `_coverage` there; None outside the frame."""
    low, high = contours[0].min(axis=0), contours[0].max(axis=0)
    left, top = (max(int(np.floor(value)), 0) for value in low)
    right, bottom = min(int(np.ceil(high[0])) + 1, width), min(int(np.ceil(high[1])) + 1, height)
    if left >= right or top >= bottom:
        return None
    # OpenCV's fixed point on the supersampled grid of the window: integers are the centres of its pixels.
    fine = [(contour - (left, top)) * _SUPERSAMPLING - 0.5 for contour in contours]
    corners = [np.round(contour * (1 << _SHIFT)).astype(np.int32) for contour in fine]
    return left, top, *_coverage(corners, right - left, bottom - top, rim)


def _draw_background(scene: Scene) -> np.ndarray:
    unit = np.float32(2.0 / min(scene.height, scene.width))
    u = (np.arange(scene.width, dtype=np.float32) + np.float32(0.5 - scene.width / 2))[None] * unit
    v = (np.arange(scene.height, dtype=np.float32) + np.float32(0.5 - scene.height / 2))[:, None] * unit
    u, v = np.broadcast_arrays(u, v)
    canvas = np.ascontiguousarray(surface(scene.background, np.ascontiguousarray(u), np.ascontiguousarray(v)))
    one = 1 << _SHIFT
    for x1, y1, x2, y2, thickness, color in scene.clutter:
        ends = [(round((x - 0.5) * one), round((y - 0.5) * one)) for x, y in ((x1, y1), (x2, y2))]
        cv2.line(canvas, *ends, color, thickness, lineType=cv2.LINE_8, shift=_SHIFT)
    return canvas


def _cast_shadow(canvas: np.ndarray, share: np.ndarray, left: int, top: int, strength: float, reach: int) -> None:
    """Darken the canvas around an object of coverage `share`, drawn at (left, top), by a soft shifted copy of it."""
    soft = cv2.GaussianBlur(cv2.copyMakeBorder(share, *[2 * reach] * 4, cv2.BORDER_CONSTANT), (0, 0), reach / 2)
    y, x = top - 2 * reach + reach // 2, left - 2 * reach + reach // 2
    y0, x0 = max(y, 0), max(x, 0)
    target = canvas[y0 : y + soft.shape[0], x0 : x + soft.shape[1]]
    soft = soft[y0 - y :, x0 - x :][: target.shape[0], : target.shape[1]]
    target *= 1 - np.float32(strength) * soft[..., None]


def _photograph(canvas: np.ndarray, camera: Camera) -> np.ndarray:
    picture = canvas * np.array(camera.gain, dtype=np.float32)
    if camera.blur:
        picture = cv2.GaussianBlur(picture, (0, 0), camera.blur)
    if camera.noise:
        grain = np.random.default_rng(camera.noise_seed).standard_normal(picture.shape, dtype=np.float32)
        picture += grain * np.float32(camera.noise)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def render(scene: Scene) -> Rendering:
    """Draw a scene, from the background to the nearest object, and its masks.

    A pixel belongs to an object's amodal mask when the object covers at least half of it.
    """
    height, width = scene.height, scene.width
    canvas = _draw_background(scene)
    amodal = np.zeros((len(scene.objects), height, width), dtype=bool)
    reach = max(2, round(min(height, width) / 40))
    for index in reversed(range(len(scene.objects))):
        item = scene.objects[index]
        drawn = rasterize(item.contours(), height, width, item.look.rim)
        if drawn is None:
            continue
        left, top, share, brightness = drawn
        bottom, right = top + share.shape[0], left + share.shape[1]
        if scene.shadow:
            _cast_shadow(canvas, share, left, top, scene.shadow, reach)
        color = surface(item.look, *_object_coordinates(item, left, top, right - left, bottom - top))
        target = canvas[top:bottom, left:right]
        target += share[..., None] * (color * brightness[..., None] - target)
        amodal[index, top:bottom, left:right] = share >= 0.5

    visible = amodal.copy()
    nearer = np.zeros((height, width), dtype=bool)
    for index in range(len(scene.objects)):
        visible[index] &= ~nearer
        nearer |= amodal[index]
    areas = amodal.sum(axis=(1, 2))
    covered = 1.0 - visible.sum(axis=(1, 2)) / np.maximum(areas, 1)
    return Rendering(_photograph(canvas, scene.camera), amodal, visible, covered)


def _hsv(hue: float, saturation: float, value: float) -> Color:
    """BGR in 0..255 of a hue in degrees, saturation and value in [0, 1]."""
    sector = (np.array([1.0, 3.0, 5.0]) + hue / 60.0) % 6.0
    weight = np.clip(np.minimum(sector, 4.0 - sector), 0.0, 1.0)
    return tuple(float(channel) for channel in 255.0 * value * (1.0 - saturation * weight))


def _uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(rng.uniform(low, high))


def sample_look(rng: np.random.Generator, category: int) -> Look:
    """A random surface within the hue range of a category (its middle +- 12 degrees)."""
    hue = CATEGORIES[category].hue
    saturation, value = _uniform(rng, 0.6, 1.0), _uniform(rng, 0.55, 1.0)
    first = _hsv(hue + _uniform(rng, -12, 12), saturation, value)
    second = _hsv(hue + _uniform(rng, -12, 12), saturation * _uniform(rng, 0.5, 1.0), value * _uniform(rng, 0.45, 0.85))
    return Look(
        colors=(first, second),
        texture=TEXTURES[rng.integers(len(TEXTURES))],
        frequency=_uniform(rng, 0.7, 1.8),
        direction=_uniform(rng, 0, np.pi),
        phase=_uniform(rng, 0, 2 * np.pi),
        light=(_uniform(rng, -0.2, 0.2), _uniform(rng, -0.2, 0.2)),
        rim=_uniform(rng, 0.1, 0.6),
        grain=int(rng.integers(2**31)),
    )


def sample_object(rng: np.random.Generator, category: int, center: tuple[float, float], radius: float) -> SceneObject:
    """A random object of a category at a place: any rotation, mild stretch and shear, about half of them deformed."""
    deformed = rng.random() < 0.5
    waves = ()
    if deformed:
        waves = tuple((order, _uniform(rng, 0, 0.16 / order**0.5), _uniform(rng, 0, 2 * np.pi)) for order in (2, 3))
    return SceneObject(
        category=category,
        center=center,
        radius=radius,
        look=sample_look(rng, category),
        angle=_uniform(rng, 0, 2 * np.pi),
        stretch=float(np.exp(_uniform(rng, -0.14, 0.14))),
        shear=_uniform(rng, -0.2, 0.2),
        proportions=(_uniform(rng, 0, 1), _uniform(rng, 0, 1)),
        bend=_uniform(rng, -0.18, 0.18) if deformed else 0.0,
        waves=waves,
    )


def sample_background(rng: np.random.Generator) -> Look:
    """A dull textured surface: saturation at most 0.3, so that it is no category's colour."""
    hue, value = _uniform(rng, 0, 360), _uniform(rng, 0.25, 0.85)
    return Look(
        colors=(
            _hsv(hue, _uniform(rng, 0.0, 0.3), value),
            _hsv(hue + _uniform(rng, -60, 60), _uniform(rng, 0.0, 0.3), min(value * _uniform(rng, 0.65, 1.3), 1.0)),
        ),
        texture=TEXTURES[rng.integers(len(TEXTURES))],
        frequency=_uniform(rng, 0.8, 4.0),
        direction=_uniform(rng, 0, np.pi),
        phase=_uniform(rng, 0, 2 * np.pi),
        light=(_uniform(rng, -0.25, 0.25), _uniform(rng, -0.25, 0.25)),
        grain=int(rng.integers(2**31)),
    )


def _sample_place(
    rng: np.random.Generator, placed: list[SceneObject], category: int, radius: float, height: int, width: int
) -> tuple[float, float]:
    """A centre: mostly beside an object that is there (one of the same category first), else anywhere."""
    margin = 0.6 * radius
    if not placed or rng.random() < 0.25:
        return _uniform(rng, margin, width - margin), _uniform(rng, margin, height - margin)
    kin = [item for item in placed if item.category == category]
    others = kin if kin and rng.random() < 0.8 else placed
    other = others[rng.integers(len(others))]
    for _ in range(5):
        angle = _uniform(rng, 0, 2 * np.pi)
        distance = _uniform(rng, 0.55, 1.1) * (radius + other.radius)
        x, y = other.center[0] + distance * np.cos(angle), other.center[1] + distance * np.sin(angle)
        if margin <= x <= width - margin and margin <= y <= height - margin:
            break
    return float(np.clip(x, margin, width - margin)), float(np.clip(y, margin, height - margin))


def sample_scene(
    rng: np.random.Generator, height: int = 128, width: int = 128, *, objects: tuple[int, int] = (3, 9)
) -> Scene:
    """A random crowded scene: about half of the objects share one category, and most lie beside another one.

    Args:
        rng: the only source of chance; the same state gives the same scene.
        height: in pixels.
        width: in pixels; sizes of objects follow the shorter side.
        objects: least and largest number of objects.
    """
    side = min(height, width)
    main = int(rng.integers(len(CATEGORIES)))
    placed: list[SceneObject] = []
    for _ in range(int(rng.integers(objects[0], objects[1] + 1))):
        category = main if rng.random() < 0.45 else int(rng.integers(len(CATEGORIES)))
        radius = side * _uniform(rng, 0.085, 0.165)
        center = _sample_place(rng, placed, category, radius, height, width)
        placed.append(sample_object(rng, category, center, radius))
    clutter = tuple(
        (
            _uniform(rng, 0, width),
            _uniform(rng, 0, height),
            _uniform(rng, 0, width),
            _uniform(rng, 0, height),
            int(rng.integers(1, 4)),
            _hsv(_uniform(rng, 0, 360), _uniform(rng, 0, 0.35), _uniform(rng, 0.2, 0.9)),
        )
        for _ in range(int(rng.integers(0, 5)))
    )
    camera = Camera(
        gain=tuple(_uniform(rng, 0.88, 1.12) for _ in range(3)),
        blur=_uniform(rng, 0.3, 0.8) if rng.random() < 0.4 else 0.0,
        noise=_uniform(rng, 2.0, 9.0),
        noise_seed=int(rng.integers(2**31)),
    )
    return Scene(
        height=height,
        width=width,
        objects=tuple(placed[index] for index in rng.permutation(len(placed))),
        background=sample_background(rng),
        clutter=clutter,
        shadow=_uniform(rng, 0.15, 0.45),
        camera=camera,
    )
