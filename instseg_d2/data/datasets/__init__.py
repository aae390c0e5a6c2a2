"""Data sets by name. Importing this registers the built-in ones; no file is read for that."""

from .bdd100k import register_bdd100k
from .builtin import BUILTIN_DATASETS, prepare_dataset, register_builtin
from .coco import CocoDataset, read_coco_json, register_coco
from .cocoa import register_cocoa
from .kins import register_kins
from .validation import Problem, validate_coco
from .voc import register_voc
from .youtube_vis import register_youtube_vis

register_builtin()
