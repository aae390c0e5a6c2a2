"""Loaders of data set formats, and the registration of the builtin sets."""

from .coco import convert_to_coco_json, load_coco_json, load_sem_seg, register_coco_instances
from .coco_panoptic import register_coco_panoptic, register_coco_panoptic_separated
from .lvis import get_lvis_instances_meta, load_lvis_json, register_lvis_instances
from .pascal_voc import load_voc_instances, register_pascal_voc

from . import builtin as _builtin  # isort:skip  (registers)

__all__ = [name for name in dir() if not name.startswith("_")]
