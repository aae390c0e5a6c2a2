"""Transforms (deterministic) and augmentations (policies, often random, that choose a transform)."""

from fvcore.transforms.transform import *  # noqa: F403
from fvcore.transforms.transform import Transform, TransformList

from .transform import *  # noqa: F403  isort:skip
from .augmentation import *  # noqa: F403  isort:skip
from .augmentation_impl import *  # noqa: F403  isort:skip

__all__ = [name for name in dir() if not name.startswith("_")]
