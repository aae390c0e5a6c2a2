"""The augmentation protocol: a policy looks at an `AugInput`, chooses a transform and applies it there."""

import inspect
import pprint
from collections.abc import Sequence
from typing import Any

import numpy as np
from fvcore.transforms.transform import Transform, TransformList

__all__ = [
    "AugInput",
    "Augmentation",
    "AugmentationList",
    "StandardAugInput",
    "TransformGen",
    "apply_augmentations",
    "apply_transform_gens",
]


def _get_aug_input_args(aug: "Augmentation", aug_input: Any) -> list[Any]:
    """The attributes of `aug_input` that `aug.get_transform` asks for; finds and keeps their names on first use."""
    if aug.input_args is None:
        parameters = inspect.signature(aug.get_transform).parameters.values()
        if len(parameters) == 1:
            # A lone parameter means the image, whatever it is called.
            aug.input_args = ("image",)
        elif any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
            raise TypeError(
                f"{type(aug)}.get_transform takes *args or **kwargs, so its inputs are unknown. "
                "Name them, set `input_args`, or override __call__."
            )
        else:
            aug.input_args = tuple(p.name for p in parameters)
    missing = [name for name in aug.input_args if not hasattr(aug_input, name)]
    if missing:
        raise AttributeError(f"{type(aug)}.get_transform needs {missing}, which {type(aug_input)} does not have")
    return [getattr(aug_input, name) for name in aug.input_args]


class Augmentation:
    """A policy that makes a :class:`Transform` out of input data.

    Subclasses implement :meth:`get_transform`. Its parameter names say which attributes of the input it needs;
    the builtin ones use

    * ``image``: (H, W) or (H, W, C), uint8 in [0, 255] or floating point in [0, 1] or [0, 255];
    * ``boxes``: (N, 4) float32, xyxy absolute pixels;
    * ``sem_seg``: (H, W) uint8 label of each pixel.

    A single parameter always receives ``image``. Random numbers come from numpy's global generator.
    """

    # Names of the attributes that get_transform receives; filled from its signature on the first call.
    input_args: tuple[str, ...] | None = None

    def _init(self, params: dict[str, Any] | None = None) -> None:
        """Keep constructor arguments as attributes: call as ``self._init(locals())``."""
        for name, value in (params or {}).items():
            if name != "self" and not name.startswith("_"):
                setattr(self, name, value)

    def get_transform(self, *args: Any) -> Transform:
        """Choose the transform for these inputs, without applying it."""
        raise NotImplementedError(f"{type(self)} does not implement get_transform")

    def __call__(self, aug_input: Any) -> Transform:
        """Choose a transform, apply it to `aug_input` in place through its ``transform`` method, and return it."""
        chosen = self.get_transform(*_get_aug_input_args(self, aug_input))
        if not isinstance(chosen, Transform):
            raise TypeError(f"{type(self)}.get_transform must return a Transform, got {type(chosen)}")
        aug_input.transform(chosen)
        return chosen

    def _rand_range(self, low: float = 1.0, high: float | None = None, size=None):
        """Uniform random numbers in [low, high), or in [0, low) when `high` is not given."""
        if high is None:
            low, high = 0, low
        return np.random.uniform(low, high, [] if size is None else size)

    def __repr__(self) -> str:
        """``Name(arg=value, ...)`` with the arguments that differ from their defaults."""
        shown = []
        for name, parameter in inspect.signature(self.__init__).parameters.items():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or not hasattr(self, name):
                return super().__repr__()
            value = getattr(self, name)
            if value is not parameter.default:
                text = pprint.pformat(value)
                shown.append(f"{name}={'...' if chr(10) in text else text}")
        return f"{type(self).__name__}({', '.join(shown)})"

    __str__ = __repr__


class _TransformToAug(Augmentation):
    """The policy that always chooses one given transform."""

    def __init__(self, tfm: Transform):
        self.tfm = tfm

    def get_transform(self, *args: Any) -> Transform:
        return self.tfm

    def __repr__(self) -> str:
        return repr(self.tfm)

    __str__ = __repr__


def _transform_to_aug(tfm_or_aug: Transform | Augmentation) -> Augmentation:
    """`tfm_or_aug` as an augmentation."""
    assert isinstance(tfm_or_aug, (Transform, Augmentation)), (
        f"expected a Transform or an Augmentation, got {tfm_or_aug!r}"
    )
    return tfm_or_aug if isinstance(tfm_or_aug, Augmentation) else _TransformToAug(tfm_or_aug)


class AugmentationList(Augmentation):
    """Augmentations (or transforms) one after the other, each seeing the result of the one before.

    It can only be called; there is no `get_transform`, because the later choices need the earlier results.
    """

    def __init__(self, augs: Sequence[Augmentation | Transform]):
        self.augs = [_transform_to_aug(aug) for aug in augs]

    def __call__(self, aug_input: Any) -> TransformList:
        return TransformList([aug(aug_input) for aug in self.augs])

    def __repr__(self) -> str:
        return f"AugmentationList[{', '.join(str(aug) for aug in self.augs)}]"

    __str__ = __repr__


class AugInput:
    """The standard input of augmentations: an image and, optionally, boxes and a semantic map that follow it.

    Any class with the attributes that the augmentations ask for and with a ``transform(tfm)`` method that
    transforms them in place can stand in for it.

    Args:
        image: (H, W) or (H, W, C) array, uint8 in [0, 255] or floating point in [0, 1] or [0, 255].
        boxes: (N, 4) float32, xyxy absolute pixels.
        sem_seg: (H, W) uint8 labels.
    """

    def __init__(self, image: np.ndarray, *, boxes: np.ndarray | None = None, sem_seg: np.ndarray | None = None):
        assert isinstance(image, np.ndarray), f"the image must be a numpy array, got {type(image)}"
        assert image.ndim in (2, 3), f"the image must have the shape (H, W) or (H, W, C), got {image.shape}"
        self.image = image
        self.boxes = boxes
        self.sem_seg = sem_seg

    def transform(self, tfm: Transform) -> None:
        """Replace every attribute by its transformed version."""
        self.image = tfm.apply_image(self.image)
        if self.boxes is not None:
            self.boxes = tfm.apply_box(self.boxes)
        if self.sem_seg is not None:
            self.sem_seg = tfm.apply_segmentation(self.sem_seg)

    def apply_augmentations(self, augmentations: Sequence[Augmentation | Transform]) -> TransformList:
        """Same as ``AugmentationList(augmentations)(self)``."""
        return AugmentationList(augmentations)(self)


def apply_augmentations(augmentations: Sequence[Augmentation | Transform], inputs):
    """Apply `augmentations` to an image array, or to an `AugInput` (in place).

    Returns:
        the transformed image or the same input object, and the `TransformList` that was applied.
    """
    if isinstance(inputs, np.ndarray):
        wrapped = AugInput(inputs)
        applied = wrapped.apply_augmentations(augmentations)
        return wrapped.image, applied
    return inputs, inputs.apply_augmentations(augmentations)


# Earlier names that projects still use.
apply_transform_gens = apply_augmentations
TransformGen = Augmentation
StandardAugInput = AugInput
