"""The builtin augmentations. The order of their draws from numpy's global generator is part of their contract."""

import sys

import numpy as np
import torch
from fvcore.transforms.transform import (
    BlendTransform,
    CropTransform,
    HFlipTransform,
    NoOpTransform,
    PadTransform,
    Transform,
    TransformList,
    VFlipTransform,
)
from PIL import Image

from detectron2.structures import Boxes, pairwise_iou

from .augmentation import Augmentation, _transform_to_aug
from .transform import ExtentTransform, ResizeTransform, RotationTransform

__all__ = [
    "FixedSizeCrop",
    "MinIoURandomCrop",
    "RandomApply",
    "RandomBrightness",
    "RandomContrast",
    "RandomCrop",
    "RandomCrop_CategoryAreaConstraint",
    "RandomExtent",
    "RandomFlip",
    "RandomLighting",
    "RandomResize",
    "RandomRotation",
    "RandomSaturation",
    "Resize",
    "ResizeScale",
    "ResizeShortestEdge",
]

# The plain number, which a config can be dumped with.
_BILINEAR = Image.Resampling.BILINEAR.value


class RandomApply(Augmentation):
    """Applies an augmentation (or a transform) with a probability, and else nothing.

    Args:
        tfm_or_aug: what to apply.
        prob: in [0, 1].
    """

    def __init__(self, tfm_or_aug, prob=0.5):
        self.aug = _transform_to_aug(tfm_or_aug)
        assert 0.0 <= prob <= 1.0, f"prob must lie between 0 and 1, got {prob}"
        self.prob = prob

    def get_transform(self, *args) -> Transform:
        return self.aug.get_transform(*args) if self._rand_range() < self.prob else NoOpTransform()

    def __call__(self, aug_input) -> Transform:
        return self.aug(aug_input) if self._rand_range() < self.prob else NoOpTransform()


class RandomFlip(Augmentation):
    """Mirrors the image along one axis.

    Args:
        prob: probability of doing it.
        horizontal, vertical: exactly one of them is true.
    """

    def __init__(self, prob=0.5, *, horizontal=True, vertical=False):
        if bool(horizontal) == bool(vertical):
            raise ValueError(
                f"RandomFlip needs exactly one of horizontal={horizontal} and vertical={vertical}; "
                "use two of them to flip both ways"
            )
        self._init(locals())

    def get_transform(self, image) -> Transform:
        height, width = image.shape[:2]
        if self._rand_range() >= self.prob:
            return NoOpTransform()
        return HFlipTransform(width) if self.horizontal else VFlipTransform(height)


class Resize(Augmentation):
    """Resizes to one size.

    Args:
        shape: (h, w) in pixels, or an int for a square.
        interp: PIL resampling filter.
    """

    def __init__(self, shape, interp=_BILINEAR):
        self.shape = (shape, shape) if isinstance(shape, int) else tuple(shape)
        self.interp = interp

    def get_transform(self, image) -> Transform:
        return ResizeTransform(*image.shape[:2], *self.shape, self.interp)


class ResizeShortestEdge(Augmentation):
    """Scales the image, keeping its aspect ratio, until its shorter edge has a given length, or its longer edge
    `max_size` if that comes first.

    Args:
        short_edge_length: pixels. An int; or with sample_style "range" the smallest and largest length to draw
            from (both included); or with "choice" the lengths to choose from. A drawn 0 means no resizing.
        max_size: limit of the longer edge.
        sample_style: "range" or "choice".
        interp: PIL resampling filter.
    """

    @torch.jit.unused
    def __init__(self, short_edge_length, max_size=sys.maxsize, sample_style="range", interp=_BILINEAR):
        assert sample_style in ("range", "choice"), f"sample_style is 'range' or 'choice', not {sample_style!r}"
        if isinstance(short_edge_length, int):
            short_edge_length = (short_edge_length, short_edge_length)
        self.is_range = sample_style == "range"
        assert not self.is_range or len(short_edge_length) == 2, (
            f"sample_style='range' needs short_edge_length=(smallest, largest), got {short_edge_length}"
        )
        self._init(locals())

    # Without a return type, which TorchScript would look into when it compiles a caller of get_output_shape.
    @torch.jit.unused
    def get_transform(self, image):
        h, w = image.shape[:2]
        if self.is_range:
            low, high = self.short_edge_length
            length = np.random.randint(low, high + 1)
        else:
            length = np.random.choice(self.short_edge_length)
        if length == 0:
            return NoOpTransform()
        return ResizeTransform(h, w, *self.get_output_shape(h, w, length, self.max_size), self.interp)

    @staticmethod
    def get_output_shape(oldh: int, oldw: int, short_edge_length: int, max_size: int) -> tuple[int, int]:
        """The (h, w) in pixels to which an image of (oldh, oldw) is resized."""
        short = short_edge_length * 1.0
        ratio = short / min(oldh, oldw)
        # The shorter edge is exact, not a product with the ratio, which may be off by a rounding error.
        h = short if oldh < oldw else ratio * oldh
        w = ratio * oldw if oldh < oldw else short
        longest = max(h, w)
        if longest > max_size:
            shrink = max_size * 1.0 / longest
            h, w = h * shrink, w * shrink
        return int(h + 0.5), int(w + 0.5)


class ResizeScale(Augmentation):
    """Scales a target size by a random factor, then the image, keeping its aspect ratio, to fit inside that:
    the resizing half of large-scale jitter, followed by `FixedSizeCrop`.

    Args:
        min_scale, max_scale: limits of the factor.
        target_height, target_width: pixels.
        interp: PIL resampling filter.
    """

    def __init__(
        self,
        min_scale: float,
        max_scale: float,
        target_height: int,
        target_width: int,
        interp: int = _BILINEAR,
    ):
        self._init(locals())

    def _get_resize(self, image: np.ndarray, scale: float) -> Transform:
        h, w = image.shape[:2]
        ratio = min(self.target_height * scale / h, self.target_width * scale / w)
        return ResizeTransform(h, w, round(float(h * ratio)), round(float(w * ratio)), self.interp)

    def get_transform(self, image: np.ndarray) -> Transform:
        return self._get_resize(image, np.random.uniform(self.min_scale, self.max_scale))


class RandomRotation(Augmentation):
    """Rotates the image counter-clockwise by a random angle.

    Args:
        angle: degrees: a number, or with sample_style "range" (min, max), or with "choice" the angles to choose from.
        expand: enlarge the output so that it holds the whole rotated image; else crop to the input's size.
        center: centre of rotation, relative to the image size, so (0, 0) is the top left and (1, 1) the bottom
            right corner: a point, or with "range" ((min x, min y), (max x, max y)), or with "choice" the points to
            choose from. None is the image's centre. It has no effect with `expand`.
        sample_style: "range" or "choice".
        interp: OpenCV interpolation flag.
    """

    def __init__(self, angle, expand=True, center=None, sample_style="range", interp=None):
        assert sample_style in ("range", "choice"), f"sample_style is 'range' or 'choice', not {sample_style!r}"
        self.is_range = sample_style == "range"
        if isinstance(angle, (int, float)):
            angle = (angle, angle)
        if center is not None and isinstance(center[0], (int, float)):
            center = (center, center)
        self._init(locals())

    def _draw(self) -> tuple:
        """A random angle and a random relative centre, or None for it."""
        if not self.is_range:
            angle = np.random.choice(self.angle)
            return angle, None if self.center is None else self.center[np.random.randint(len(self.center))]
        angle = np.random.uniform(self.angle[0], self.angle[1])
        if self.center is None:
            return angle, None
        (min_x, min_y), (max_x, max_y) = self.center
        return angle, (np.random.uniform(min_x, max_x), np.random.uniform(min_y, max_y))

    def get_transform(self, image) -> Transform:
        h, w = image.shape[:2]
        angle, center = self._draw()
        if angle % 360 == 0:
            return NoOpTransform()
        if center is not None:
            center = (w * center[0], h * center[1])
        return RotationTransform(h, w, angle, expand=self.expand, center=center, interp=self.interp)


class FixedSizeCrop(Augmentation):
    """Crops a random window of one size, and pads a smaller image at the right and bottom up to it.

    Args:
        crop_size: (h, w) in pixels.
        pad: False leaves smaller images smaller.
        pad_value: for the image.
        seg_pad_value: for segmentations.
    """

    def __init__(
        self, crop_size: tuple[int, int], pad: bool = True, pad_value: float = 128.0, seg_pad_value: int = 255
    ):
        self._init(locals())

    def _get_crop(self, image: np.ndarray) -> Transform:
        h, w = image.shape[:2]
        crop_h, crop_w = self.crop_size
        # One draw for both axes.
        where = np.random.uniform(0.0, 1.0)
        y0, x0 = (round(max(slack, 0) * where) for slack in (h - crop_h, w - crop_w))
        return CropTransform(x0, y0, crop_w, crop_h, w, h)

    def _get_pad(self, image: np.ndarray) -> Transform:
        h, w = image.shape[:2]
        crop_h, crop_w = self.crop_size
        return PadTransform(
            *(0, 0, max(crop_w - w, 0), max(crop_h - h, 0)),
            *(min(w, crop_w), min(h, crop_h)),
            self.pad_value,
            self.seg_pad_value,
        )

    def get_transform(self, image: np.ndarray) -> TransformList:
        steps = [self._get_crop(image)]
        return TransformList([*steps, self._get_pad(image)] if self.pad else steps)


class RandomCrop(Augmentation):
    """Crops a random window.

    Args:
        crop_type: how the size of the window follows from `crop_size` and the image size (H, W):

            * "absolute": (crop_size[0], crop_size[1]) pixels, at most the image;
            * "absolute_range": height in [crop_size[0], min(H, crop_size[1])] and width in
              [crop_size[0], min(W, crop_size[1])], drawn uniformly;
            * "relative": (H * crop_size[0], W * crop_size[1]), shares in (0, 1];
            * "relative_range": like "relative", with shares drawn from [crop_size[0], 1] and [crop_size[1], 1].
        crop_size: two numbers.
    """

    def __init__(self, crop_type: str, crop_size):
        known = ("relative_range", "relative", "absolute", "absolute_range")
        assert crop_type in known, f"crop_type must be one of {known}, got {crop_type!r}"
        self._init(locals())

    def get_transform(self, image) -> Transform:
        h, w = image.shape[:2]
        crop_h, crop_w = self.get_crop_size((h, w))
        fits = h >= crop_h and w >= crop_w
        assert fits, f"{self} asks for {crop_h} x {crop_w} of an image of {h} x {w}"
        y0 = np.random.randint(h - crop_h + 1)
        x0 = np.random.randint(w - crop_w + 1)
        return CropTransform(x0, y0, crop_w, crop_h)

    def get_crop_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """The (h, w) in pixels of the window for an image of `image_size` (h, w); may be random."""
        h, w = image_size
        first, second = self.crop_size
        if self.crop_type == "absolute":
            return min(first, h), min(second, w)
        if self.crop_type == "absolute_range":
            assert first <= second, f"crop_size must be (smallest, largest), got {self.crop_size}"
            crop_h = np.random.randint(min(h, first), min(h, second) + 1)
            crop_w = np.random.randint(min(w, first), min(w, second) + 1)
            return crop_h, crop_w
        share = np.asarray(self.crop_size, dtype=np.float32)
        if self.crop_type == "relative_range":
            share_h, share_w = share + np.random.rand(2) * (1 - share)
        else:
            share_h, share_w = first, second
        return int(h * share_h + 0.5), int(w * share_w + 0.5)


class RandomCrop_CategoryAreaConstraint(Augmentation):
    """`RandomCrop` that tries up to ten windows to find one in which no single category of the semantic map covers
    more than a given share. When none is found it takes the last.

    Args:
        crop_type, crop_size: as in `RandomCrop`.
        single_category_max_area: the share; 1.0 or more switches the constraint off.
        ignored_category: label that does not count.
    """

    def __init__(
        self,
        crop_type: str,
        crop_size,
        single_category_max_area: float = 1.0,
        ignored_category: int | None = None,
    ):
        self.crop_aug = RandomCrop(crop_type, crop_size)
        self._init(locals())

    def _is_balanced(self, labels: np.ndarray) -> bool:
        categories, counts = np.unique(labels, return_counts=True)
        if self.ignored_category is not None:
            counts = counts[categories != self.ignored_category]
        return len(counts) > 1 and counts.max() < counts.sum() * self.single_category_max_area

    def get_transform(self, image, sem_seg) -> Transform:
        if self.single_category_max_area >= 1.0:
            return self.crop_aug.get_transform(image)
        for _ in range(10):
            window = self.crop_aug.get_transform(sem_seg)
            if self._is_balanced(window.apply_segmentation(sem_seg)):
                break
        return window


class RandomExtent(Augmentation):
    """Cuts a random rectangle out of the image, which may reach beyond it (black there). The output has the size of
    the rectangle.

    Args:
        scale_range: (min, max) of the factor from the image's size to the rectangle's.
        shift_range: (x, y): the rectangle moves by up to half of these shares of the image's width and height.
    """

    def __init__(self, scale_range, shift_range):
        self._init(locals())

    def get_transform(self, image) -> Transform:
        h, w = image.shape[:2]
        # A numpy scalar: with it ExtentTransform moves float32 coordinates in double precision.
        scale = np.float64(np.random.uniform(self.scale_range[0], self.scale_range[1]))
        shift_x = self.shift_range[0] * w * (np.random.rand() - 0.5)
        shift_y = self.shift_range[1] * h * (np.random.rand() - 0.5)
        x0, x1 = (side * w * scale + shift_x + 0.5 * w for side in (-0.5, 0.5))
        y0, y1 = (side * h * scale + shift_y + 0.5 * h for side in (-0.5, 0.5))
        return ExtentTransform((x0, y0, x1, y1), output_size=(int(y1 - y0), int(x1 - x0)))


class _RandomBlend(Augmentation):
    """Blends the image with something derived from it: below 1 towards that, above 1 away from it.

    Args:
        intensity_min, intensity_max: range of the weight of the image; 1 leaves it as it is.
    """

    def __init__(self, intensity_min, intensity_max):
        self._init(locals())

    def _other(self, image: np.ndarray) -> np.ndarray | float:
        raise NotImplementedError

    def get_transform(self, image) -> Transform:
        other = self._other(image)
        weight = np.random.uniform(self.intensity_min, self.intensity_max)
        return BlendTransform(src_image=other, src_weight=1 - weight, dst_weight=weight)


class RandomContrast(_RandomBlend):
    """Random contrast: blends with the mean grey value. Arguments: the range of the weight, 1 for no change."""

    def _other(self, image):
        return image.mean()


class RandomBrightness(_RandomBlend):
    """Random brightness: blends with black. Arguments: the range of the weight, 1 for no change."""

    def _other(self, image):
        return 0


class RandomSaturation(_RandomBlend):
    """Random saturation of an RGB image: blends with its grey version. Arguments: the range of the weight."""

    def _other(self, image):
        assert image.shape[-1] == 3, f"RandomSaturation needs an RGB image, got the shape {image.shape}"
        return image.dot([0.299, 0.587, 0.114])[:, :, None]


class RandomLighting(Augmentation):
    """The colour jitter of AlexNet, for RGB images: adds the principal components of ImageNet's colours with normally
    distributed weights.

    Args:
        scale: standard deviation of the weights.
    """

    def __init__(self, scale):
        self.scale = scale
        self.eigen_vecs = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
        self.eigen_vals = np.array([0.2175, 0.0188, 0.0045])

    def get_transform(self, image) -> Transform:
        assert image.shape[-1] == 3, f"RandomLighting needs an RGB image, got the shape {image.shape}"
        alphas = np.random.normal(scale=self.scale, size=3)
        return BlendTransform(src_image=self.eigen_vecs.dot(alphas * self.eigen_vals), src_weight=1.0, dst_weight=1.0)


class RandomResize(Augmentation):
    """Resizes to one of several sizes.

    Args:
        shape_list: the (h, w) in pixels to choose from.
        interp: PIL resampling filter.
    """

    def __init__(self, shape_list, interp=_BILINEAR):
        self._init(locals())

    def get_transform(self, image) -> Transform:
        new_h, new_w = self.shape_list[np.random.randint(len(self.shape_list))]
        return ResizeTransform(*image.shape[:2], new_h, new_w, self.interp)


class MinIoURandomCrop(Augmentation):
    """The crop of SSD: a random window, between half and twice as high as wide, whose IoU with every box is at least a
    random threshold and that holds the centre of at least one box. With some probability it does nothing.

    Args:
        min_ious: thresholds to choose from, besides 0 (any window) and 1 (no crop).
        min_crop_size: smallest share of the image's height and width.
        mode_trials: how many thresholds are tried.
        crop_trials: how many windows are tried per threshold.
    """

    def __init__(self, min_ious=(0.1, 0.3, 0.5, 0.7, 0.9), min_crop_size=0.3, mode_trials=1000, crop_trials=50):
        self._init(locals())
        self.sample_mode = (1, *min_ious, 0)

    def _try_window(self, height: int, width: int) -> tuple[float, float, float, float] | None:
        """A random (left, top, w, h), or None when its aspect ratio is out of bounds."""
        w = np.random.uniform(self.min_crop_size * width, width)
        h = np.random.uniform(self.min_crop_size * height, height)
        if not 0.5 <= h / w <= 2:
            return None
        # Both limits as in the reference numbers: from the far end down to 1, not to 0.
        left = np.random.uniform(width - w, 1.0)
        top = np.random.uniform(height - h, 1.0)
        return left, top, w, h

    @staticmethod
    def _is_valid(window: np.ndarray, boxes: np.ndarray, min_iou: float) -> bool:
        x0, y0, x1, y1 = window
        if x0 == x1 or y0 == y1:
            return False
        if len(boxes) == 0:
            return True
        if pairwise_iou(Boxes(window[None]), Boxes(boxes)).min() < min_iou:
            return False
        cx, cy = ((boxes[:, :2] + boxes[:, 2:]) / 2).T
        return bool(((x0 < cx) & (cx < x1) & (y0 < cy) & (cy < y1)).any())

    def get_transform(self, image, boxes) -> Transform:
        """`boxes`: (N, 4) xyxy absolute pixels, or None, which means no crop."""
        if boxes is None:
            return NoOpTransform()
        height, width = image.shape[:2]
        boxes = boxes.reshape(-1, 4)
        for _ in range(self.mode_trials):
            min_iou = np.random.choice(self.sample_mode)
            if min_iou == 1:
                break
            for _ in range(self.crop_trials):
                candidate = self._try_window(height, width)
                if candidate is None:
                    continue
                left, top, w, h = candidate
                window = np.array([int(left), int(top), int(left + w), int(top + h)])
                if self._is_valid(window, boxes, min_iou):
                    return CropTransform(int(left), int(top), int(w), int(h))
        return NoOpTransform()
