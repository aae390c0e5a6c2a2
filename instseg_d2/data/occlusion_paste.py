"""Synthetic occlusion: instances of a data set are pasted over instances of its images, and the truth follows.

BCNet is trained further on images of this kind for its last step on COCO-OCC; how those were made was not published, so
the rules here are our own. In a recipe, online:

    dataloader.train.mapper.update(
        _target_=OcclusionPasteMapper, paste=L(PasteOcclusion)(probability=0.5), sources="${dataloader.train.dataset}"
    )

and offline, as a new COCO set, `write_pasted_set`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Integral
from typing import Any, get_args

import cv2
import numpy as np

from .cutouts import Annotation, Cutout, CutoutPool, Record, explained, mirror, paste, place, resize
from .datasets.amodal import MaskKind
from .mappers import InstanceMapper
from .occlusion_truth import cover, cutting_mask, nearest_annotation, visible_mask
from .run_lengths import decode_mask

# Entries of a record that show masks of all instances, before the paste.
_STALE = ("sem_seg_file_name", "sem_seg", "pan_seg_file_name", "segments_info")

# Larger than this, an object looks blurred.
_MOST_ENLARGED = 2.0
# Sides, in pixels, at which positions are searched; the one that is found is checked at full size.
_SEARCH_SIZE = 48

# Draws an instance to paste, with its annotation, or None when it is not usable.
Draw = Callable[[], tuple[Cutout, Annotation] | None]


def find_corner(
    seen: np.ndarray, mask: np.ndarray, coverage: tuple[float, float], rng: np.random.Generator, *, tries: int = 5
) -> tuple[int, int] | None:
    """Where to put an object so that it covers some share of another one, and at least half of it is in the image.

    The share is drawn first, uniformly, and then one of the positions that give about that share.

    Args:
        seen: (H, W) bool, what is seen of the other object.
        mask: (h, w) bool, of the object.
        coverage: least and greatest share of `seen` that it may cover.
        rng: where the choice comes from.
        tries: positions to look at.

    Returns:
        x, y of the upper left pixel of `mask`; None when none of the tries is within the limits.
    """
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    target = seen[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    reduction = min(1.0, _SEARCH_SIZE / max(*target.shape, *mask.shape))
    small, template = (_reduced(plane, reduction) for plane in (target, mask))
    height, width = (side - 1 for side in template.shape)
    around = cv2.copyMakeBorder(small, height, height, width, width, cv2.BORDER_CONSTANT, value=0)
    share = cv2.matchTemplate(around, template, cv2.TM_CCORR) / small.sum()
    low, high = coverage
    away = np.abs(share - rng.uniform(low, high))
    positions = np.argwhere(away <= max(away.min(), 0.1 * (high - low)))
    for row, column in positions[rng.integers(len(positions), size=tries)]:
        shift = (np.array([column - width, row - height]) + rng.uniform(-0.5, 0.5, 2)) / reduction
        x, y = (int(columns[0] + round(shift[0])), int(rows[0] + round(shift[1])))
        there = place(mask, (x, y), seen.shape)
        in_image = np.count_nonzero(there) >= 0.5 * np.count_nonzero(mask)
        if in_image and low <= np.count_nonzero(there & seen) / np.count_nonzero(seen) <= high:
            return x, y
    return None


def _reduced(plane: np.ndarray, factor: float) -> np.ndarray:
    height, width = (max(1, round(side * factor)) for side in plane.shape)
    return cv2.resize(plane.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)


@dataclass(frozen=True, kw_only=True)
class PasteOcclusion:
    """Pastes objects over instances of an image; each is before all that was there.

    An object is cut out by its visible mask, mirrored or not, resized, and put where it covers a share of one instance,
    drawn among those with a visible mask. It may cover others as well, which the limits say nothing about.

    Attributes:
        probability: that anything is pasted into an image.
        number: least and most objects, when it is.
        scale: least and greatest size of the object, as the square root of the ratio of its area to the visible area of
            the instance that it covers; above 0. No object is enlarged to more than twice its size.
        coverage: limits of the share of the instance's visible area that it covers; above 0, and not equal.
        mirror_probability: that the object is mirrored.
        masks: which masks the `segmentation` entries of the annotations are. With "amodal", instances without
            `visible_segmentation` are neither covered on purpose nor pasted, and their truth stays.
        most_covered: greatest hidden share of an instance that is pasted, where the annotations say it (`covered`):
            what is left of one behind others is no object of its own.
        at_border: whether to paste objects that reach the border of their own image, where they end in a straight line.
        least_pixels: what a paste leaves with fewer visible pixels is no longer annotated; nor is anything as small
            pasted or chosen to be covered.
        tries: choices of an instance, an object and a place until one fits; without any, that object is left out.
        kept_keys: entries of annotations to keep in images with a paste, beyond those that `cover` names, and to copy
            to pasted instances.

    Raises:
        ValueError: a value is out of bounds, or no range.
    """

    probability: float = 0.5
    number: Sequence[int] = (1, 2)
    scale: Sequence[float] = (0.5, 1.5)
    coverage: Sequence[float] = (0.1, 0.6)
    mirror_probability: float = 0.5
    masks: MaskKind = "visible"
    most_covered: float = 0.1
    at_border: bool = False
    least_pixels: int = 16
    tries: int = 10
    kept_keys: Sequence[str] = ()

    def __post_init__(self):
        # Tuples, so that equal settings are equal and can be looked up.
        for name in ("number", "scale", "coverage", "kept_keys"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("probability", "mirror_probability", "most_covered"):
            _check(0 <= getattr(self, name) <= 1, self, name, "in [0, 1]")
        for name in ("least_pixels", "tries"):
            value = getattr(self, name)
            _check(isinstance(value, Integral) and value >= 1, self, name, "a whole number, 1 or more")
        whole = all(isinstance(value, Integral) for value in self.number)
        _check(whole and _in_order(1, *self.number), self, "number", "two whole numbers in order, 1 or more")
        _check(_in_order(0, *self.scale) and self.scale[0] > 0, self, "scale", "two numbers in order, above 0")
        between = _in_order(0, *self.coverage) and 0 < self.coverage[0] < self.coverage[1] <= 1
        _check(between, self, "coverage", "two numbers in order and not equal, above 0 and at most 1")
        _check(self.masks in get_args(MaskKind), self, "masks", f"one of {get_args(MaskKind)}")

    def pool(self, records: Sequence[Record]) -> CutoutPool:
        """The objects of a data set that may be pasted.

        Raises:
            DatasetError: there are none.
        """
        return CutoutPool(
            records,
            partial(cutting_mask, masks=self.masks, most_covered=self.most_covered),
            at_border=self.at_border,
        )

    def __call__(
        self, image: np.ndarray, annotations: Sequence[Annotation], draw: Draw, rng: np.random.Generator
    ) -> tuple[np.ndarray, list[Annotation], int]:
        """Paste into one image.

        Args:
            image: (H, W, C); not changed.
            annotations: of this image; not changed.
            draw: gives objects of images of the same type, such as `CutoutPool.draw`.
            rng: where all choices but those of `draw` come from.

        Returns:
            The image, its annotations, and the number of objects that were pasted, whose annotations come last, with
            ids below 0 and below all others of the image; without any, the same image and annotations.
        """
        done = 0
        if rng.random() < self.probability:
            for _ in range(rng.integers(*self.number, endpoint=True)):
                pasted = next(filter(None, (self._try(image, annotations, draw, rng) for _ in range(self.tries))), None)
                if pasted is not None:
                    image, annotations = pasted
                    done += 1
        return image, list(annotations), done

    def _try(
        self, image: np.ndarray, annotations: Sequence[Annotation], draw: Draw, rng: np.random.Generator
    ) -> tuple[np.ndarray, list[Annotation]] | None:
        """Paste one object; None if it does not fit."""
        targets = [one for one in annotations if not one.get("iscrowd", 0) and visible_mask(one, self.masks)]
        if not targets:
            return None
        target = targets[rng.integers(len(targets))]
        seen = decode_mask(visible_mask(target, self.masks), *image.shape[:2])
        pixels = np.count_nonzero(seen)
        # Drawing reads an image, so it comes last.
        drawn = draw() if pixels >= self.least_pixels else None
        if drawn is None or drawn[0].area < self.least_pixels:
            return None
        cutout, source = drawn
        factor = rng.uniform(*self.scale) * (pixels / cutout.area) ** 0.5
        cutout = resize(cutout, min(factor, _MOST_ENLARGED))
        if rng.random() < self.mirror_probability:
            cutout = mirror(cutout)
        corner = find_corner(seen, cutout.mask, self.coverage, rng)
        mask = place(cutout.mask, corner, image.shape[:2]) if corner else None
        if mask is None or np.count_nonzero(mask) < self.least_pixels:
            return None
        return paste(image, cutout, corner), self._truth(annotations, mask, source)

    def _truth(self, annotations: Sequence[Annotation], mask: np.ndarray, source: Annotation) -> list[Annotation]:
        # Negative: data sets number from 0 or 1.
        identity = min([0, *(one["id"] for one in annotations if isinstance(one.get("id"), int))]) - 1
        behind = cover(
            annotations,
            mask,
            identity=identity,
            masks=self.masks,
            least_pixels=self.least_pixels,
            kept_keys=self.kept_keys,
        )
        new = nearest_annotation(mask, source, identity=identity, kept_keys=self.kept_keys)
        if "instance_id" in source:
            new["instance_id"] = 1 + max((int(one.get("instance_id", 0)) for one in annotations), default=0)
        return [*behind, new]


def _in_order(least: float, *values: float) -> bool:
    return len(values) == 2 and least <= values[0] <= values[1] < np.inf


def _check(holds: bool, settings: PasteOcclusion, name: str, wanted: str) -> None:
    if not holds:
        raise ValueError(f"{name}={getattr(settings, name)!r}: must be {wanted}")


class OcclusionPasteMapper(InstanceMapper):
    """`InstanceMapper` that pastes objects into training images before it augments them.

    All choices come from NumPy's global generator, which detectron2 seeds in every worker process.

    Args:
        paste: what is pasted, and where.
        sources: records, with `height` and `width`, to cut objects out of, commonly those of the training set. Of a
            supervision that hides masks they must be what it leaves (`get_supervised_dataset_dicts`): what it hides
            cannot be pasted then.
        options: arguments of `InstanceMapper`; masks must be used, as bitmasks.

    Raises:
        DatasetError: no source has a mask to cut by.
        SampleError: as `InstanceMapper`; the message names the image that is pasted into, or the one it is cut out of.
        ValueError: the other settings do not go with pasting.
    """

    # The key under which the image with its pastes travels to `read_image`.
    _PASTED = "pasted_image"

    def __init__(self, *, paste: PasteOcclusion, sources: Sequence[Record], **options: Any):
        super().__init__(**options)
        if not self.use_instance_mask or self.instance_mask_format != "bitmask":
            raise ValueError("pasting needs use_instance_mask=True and instance_mask_format='bitmask'")
        self.paste = paste
        self.pool = paste.pool(sources)

    def __call__(self, record: Record) -> Record:
        """Map one record, which stays as it is."""
        if self.is_train and record.get("annotations"):
            record = self._with_pastes(record)
        return super().__call__(record)

    def _with_pastes(self, record: Record) -> Record:
        rng = np.random.default_rng(np.random.randint(2**31, size=4))
        with explained(record, "cannot paste into {}"):
            image = self.read_image({key: value for key, value in record.items() if key != "annotations"})
            image, annotations, done = self.paste(
                image, record["annotations"], lambda: self.pool.draw(rng, self.read_image), rng
            )
        stays = {key: value for key, value in record.items() if not done or key not in _STALE}
        return {**stays, "annotations": annotations, self._PASTED: image}

    def read_image(self, sample: Record) -> np.ndarray:
        """As `InstanceMapper`; the image with its pastes, where there is one."""
        image = sample.pop(self._PASTED, None)
        if image is None:
            return super().read_image(sample)
        sample.setdefault("width", image.shape[1])
        sample.setdefault("height", image.shape[0])
        return image
