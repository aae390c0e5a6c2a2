"""Transforms beyond those of fvcore: resizing, rotation, sub-rectangles and colour operations."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from fvcore.transforms.transform import (
    CropTransform,
    HFlipTransform,
    NoOpTransform,
    Transform,
    TransformList,
)
from PIL import Image

__all__ = [
    "ColorTransform",
    "ExtentTransform",
    "PILColorTransform",
    "ResizeTransform",
    "RotationTransform",
]

# Plain numbers: transforms are printed and dumped with them.
_NEAREST = Image.Resampling.NEAREST.value
_BILINEAR = Image.Resampling.BILINEAR.value
_BICUBIC = Image.Resampling.BICUBIC.value


def _through_pil(img: np.ndarray, op: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """Run a PIL operation on an (H, W), (H, W, 1) or (H, W, 3) array, and keep the number of dimensions."""
    if img.ndim > 2 and img.shape[2] == 1:
        return np.asarray(op(Image.fromarray(img[:, :, 0])))[:, :, None]
    return np.asarray(op(Image.fromarray(img)))


class ExtentTransform(Transform):
    """Cuts a rectangle out of the image, which may reach beyond it, and scales it to the output size.

    Args:
        src_rect: (x0, y0, x1, y1) in the source image, absolute pixels.
        output_size: (h, w) in pixels.
        interp: PIL resampling filter.
        fill: passed to PIL's `Image.transform`.
    """

    def __init__(self, src_rect, output_size, interp=_BILINEAR, fill=0):
        super().__init__()
        self.src_rect = src_rect
        self.output_size = output_size
        self.interp = interp
        self.fill = fill

    def apply_image(self, img: np.ndarray, interp=None) -> np.ndarray:
        h, w = self.output_size
        # Known quirk, kept for equal numbers: NEAREST is 0, so asking for it gives `self.interp` instead.
        resample = interp or self.interp

        def cut(image: Image.Image) -> Image.Image:
            return image.transform((w, h), Image.Transform.EXTENT, self.src_rect, resample, self.fill)

        return _through_pil(img, cut)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        x0, y0, x1, y1 = self.src_rect
        h, w = self.output_size
        # Relative to the centre of the rectangle, scaled, then relative to the corner of the output.
        moved = coords.astype(np.float32)
        for axis, (low, high, size) in enumerate(((x0, x1, w), (y0, y1, h))):
            column = moved[:, axis]
            column -= 0.5 * (low + high)
            column *= size / (high - low)
            column += 0.5 * size
        return moved

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return self.apply_image(segmentation, interp=_NEAREST)


class ResizeTransform(Transform):
    """Resizes the image: through PIL for uint8 (antialiased), through torch for other types.

    Args:
        h, w: size of the input in pixels.
        new_h, new_w: size of the output in pixels.
        interp: PIL resampling filter, bilinear by default.
    """

    _TORCH_MODES = {_NEAREST: "nearest", _BILINEAR: "bilinear", _BICUBIC: "bicubic"}

    def __init__(self, h, w, new_h, new_w, interp=None):
        super().__init__()
        self.h, self.w = h, w
        self.new_h, self.new_w = new_h, new_w
        self.interp = _BILINEAR if interp is None else interp

    def apply_image(self, img: np.ndarray, interp=None) -> np.ndarray:
        """`img` is (H, W), (H, W, C) or (H, W, B, C)."""
        assert img.shape[:2] == (self.h, self.w), (
            f"this transform resizes images of {self.h} x {self.w}, got the shape {img.shape}"
        )
        assert img.ndim <= 4, f"an image has at most four dimensions, got the shape {img.shape}"
        interp = self.interp if interp is None else interp
        if img.dtype == np.uint8:
            return _through_pil(img, lambda image: image.resize((self.new_w, self.new_h), interp))
        return self._resize_with_torch(img, interp)

    def _resize_with_torch(self, img: np.ndarray, interp) -> np.ndarray:
        if interp not in self._TORCH_MODES:
            raise ValueError(f"images of type {img.dtype} are resized by nearest, bilinear or bicubic, not {interp}")
        mode = self._TORCH_MODES[interp]
        if min(img.strides, default=0) < 0:  # torch has no negative strides
            img = np.ascontiguousarray(img)
        h, w, *rest = img.shape
        batch, channels = ([1, 1] + rest)[-2:]
        # A view with the strides of the array, so that torch takes the kernel for its memory layout.
        nchw = torch.from_numpy(img).view(h, w, batch, channels).permute(2, 3, 0, 1)
        resized = F.interpolate(
            nchw, (self.new_h, self.new_w), mode=mode, align_corners=None if mode == "nearest" else False
        )
        return resized.permute(2, 3, 0, 1).reshape(self.new_h, self.new_w, *rest).numpy()

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        coords[:, 0] = coords[:, 0] * (self.new_w * 1.0 / self.w)
        coords[:, 1] = coords[:, 1] * (self.new_h * 1.0 / self.h)
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return self.apply_image(segmentation, interp=_NEAREST)

    def inverse(self) -> Transform:
        return ResizeTransform(self.new_h, self.new_w, self.h, self.w, self.interp)


class RotationTransform(Transform):
    """Rotates the image counter-clockwise. Needs OpenCV.

    Args:
        h, w: size of the input in pixels.
        angle: degrees.
        expand: enlarge the output so that it holds the whole rotated image; otherwise keep the size and crop.
        center: (x, y) of the centre of rotation, by default that of the image. No effect with `expand`.
        interp: OpenCV interpolation flag, linear by default.
    """

    def __init__(self, h, w, angle, expand=True, center=None, interp=None):
        import cv2  # an optional dependency of this one transform

        super().__init__()
        self.h, self.w = h, w
        self.angle = angle
        self.expand = expand
        self.image_center = np.array((w / 2, h / 2))
        self.center = self.image_center if center is None else center
        self.interp = cv2.INTER_LINEAR if interp is None else interp
        self.abs_cos, self.abs_sin = abs(np.cos(np.deg2rad(angle))), abs(np.sin(np.deg2rad(angle)))
        self.bound_w, self.bound_h = w, h
        if expand:
            extent = [h * self.abs_sin + w * self.abs_cos, h * self.abs_cos + w * self.abs_sin]
            self.bound_w, self.bound_h = np.rint(extent).astype(int)
        self.rm_coords = self.create_rotation_matrix()
        # OpenCV puts the origin at the centre of the first pixel, half a pixel away from that of coordinates.
        self.rm_image = self.create_rotation_matrix(offset=-0.5)

    def _is_identity(self, items) -> bool:
        return len(items) == 0 or self.angle % 360 == 0

    def apply_image(self, img: np.ndarray, interp=None) -> np.ndarray:
        import cv2

        if self._is_identity(img):
            return img
        assert img.shape[:2] == (self.h, self.w), (
            f"this transform rotates images of {self.h} x {self.w}, got the shape {img.shape}"
        )
        flags = self.interp if interp is None else interp
        return cv2.warpAffine(img, self.rm_image, (self.bound_w, self.bound_h), flags=flags)

    def apply_coords(self, coords) -> np.ndarray:
        """`coords` is an (N, 2) array-like of (x, y)."""
        import cv2

        points = np.asarray(coords, dtype=float)
        if self._is_identity(points):
            return points
        return cv2.transform(points[:, None], self.rm_coords)[:, 0]

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        import cv2

        return self.apply_image(segmentation, interp=cv2.INTER_NEAREST)

    def create_rotation_matrix(self, offset: float = 0) -> np.ndarray:
        """(2, 3) affine matrix for coordinates whose origin lies `offset` pixels away from the image corner."""
        import cv2

        pivot = (self.center[0] + offset, self.center[1] + offset)
        matrix = cv2.getRotationMatrix2D(pivot, self.angle, 1)
        if self.expand:
            # Whatever the pivot was, the centre of the image ends at the centre of the output.
            arrives_at = cv2.transform(self.image_center[None, None] + offset, matrix)[0, 0]
            matrix[:, 2] += np.array([self.bound_w / 2, self.bound_h / 2]) + offset - arrives_at
        return matrix

    def inverse(self) -> Transform:
        """Rotate back and crop to the first size. NotImplementedError without `expand`, which loses the corners."""
        if not self.expand:
            raise NotImplementedError("a rotation with expand=False has no inverse: it cuts the corners off")
        back = RotationTransform(self.bound_h, self.bound_w, -self.angle, True, None, self.interp)
        margin_x, margin_y = (back.bound_w - self.w) // 2, (back.bound_h - self.h) // 2
        return TransformList([back, CropTransform(margin_x, margin_y, self.w, self.h)])


class ColorTransform(Transform):
    """Changes the colours of the image and leaves all coordinates alone.

    Args:
        op: takes an image array and returns one of the same size.
    """

    def __init__(self, op: Callable[[np.ndarray], np.ndarray]):
        if not callable(op):
            raise ValueError(f"op must be a callable on images, got {op!r}")
        super().__init__()
        self.op = op

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        return self.op(img)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return segmentation

    def inverse(self) -> Transform:
        return NoOpTransform()


class PILColorTransform(ColorTransform):
    """A `ColorTransform` whose operation works on PIL images.

    Args:
        op: takes a PIL image and returns one.
    """

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        return np.asarray(super().apply_image(Image.fromarray(img)))


def HFlip_rotated_box(transform: HFlipTransform, rotated_boxes: np.ndarray) -> np.ndarray:
    """Mirror (N, 5) boxes (x centre, y centre, width, height, angle in degrees) in place."""
    rotated_boxes[:, 0] = transform.width - rotated_boxes[:, 0]
    rotated_boxes[:, 4] *= -1
    return rotated_boxes


def Resize_rotated_box(transform: ResizeTransform, rotated_boxes: np.ndarray) -> np.ndarray:
    """Scale (N, 5) boxes (x centre, y centre, width, height, angle in degrees) in place.

    Unequal scales shear, so width and height are those of the scaled edges and the angle that of the vertical edge.
    """
    sx, sy = transform.new_w / transform.w, transform.new_h / transform.h
    radians = rotated_boxes[:, 4] * np.pi / 180
    cos, sin = np.cos(radians), np.sin(radians)
    rotated_boxes[:, :2] *= (sx, sy)
    rotated_boxes[:, 2] *= np.sqrt((sx * cos) ** 2 + (sy * sin) ** 2)
    rotated_boxes[:, 3] *= np.sqrt((sx * sin) ** 2 + (sy * cos) ** 2)
    rotated_boxes[:, 4] = np.arctan2(sx * sin, sy * cos) * 180 / np.pi
    return rotated_boxes


HFlipTransform.register_type("rotated_box", HFlip_rotated_box)
ResizeTransform.register_type("rotated_box", Resize_rotated_box)
NoOpTransform.register_type("rotated_box", lambda transform, rotated_boxes: rotated_boxes)
