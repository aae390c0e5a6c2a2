"""Amodal json files made into COCO files, which evaluation and detectron2's loader read.

A file is converted once, and its COCO form with the masks that were asked for is kept in a cache folder; the folder of
the data is only read.
"""

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DatasetError
from .amodal import Layout, MaskKind, to_coco
from .coco import CocoDataset, read_coco_json, register_coco
from .derived import cache_folder, keep_derived
from .validation import TOLERABLE

logger = logging.getLogger(__name__)

# Beyond COCO's keys, what an annotation of the COCO form may have, and its record keeps.
RECORD_KEYS = (
    "amodal_segmentation",
    "visible_segmentation",
    "depth",
    "covered",
    "occluders",
    "name",
    "is_stuff",
    "instance_id",
    "bg_object_segmentation",
)

# Raised whenever the same file gives another COCO form than before.
_FORM_VERSION = "1"


@dataclass(frozen=True)
class AmodalSource:
    """An amodal json and what to make of it.

    Attributes:
        json_file: the annotations; only read.
        layout: of the file.
        masks, classes, tolerate: see `to_coco`.
        cache_folder: where COCO forms are kept, see `derived.cache_folder`.
    """

    json_file: str
    layout: Layout
    masks: MaskKind = "amodal"
    classes: tuple[str, ...] | None = None
    tolerate: frozenset[str] = frozenset()
    cache_folder: str | None = None

    def __post_init__(self):
        if self.masks not in ("amodal", "visible"):
            raise DatasetError(f"masks={self.masks!r}: must be 'amodal' or 'visible'")
        if unknown := set(self.tolerate) - TOLERABLE:
            raise DatasetError(f"tolerate={sorted(unknown)}: only {sorted(TOLERABLE)} can be tolerated")

    @property
    def coco_json(self) -> Path:
        """Path of the COCO form; it depends on nothing but the attributes, and is there after `prepare`."""
        settings = (self.layout.name, self.masks, self.classes, sorted(self.tolerate), os.path.abspath(self.json_file))
        digest = hashlib.sha256(repr(settings).encode()).hexdigest()[:12]
        stem = Path(self.json_file).stem
        return cache_folder(self.cache_folder) / f"amodal_v{_FORM_VERSION}" / f"{stem}_{self.masks}_{digest}.json"

    def prepare(self) -> None:
        """Write the COCO form unless that of the present file is there. Processes that ask at once wait for the first.

        Raises:
            DatasetError: the file is missing or cannot be used, or the cache folder cannot be written.
        """
        keep_derived(self.json_file, self.coco_json, self._converted)

    def _converted(self) -> str:
        content = read_coco_json(self.json_file)
        result, problems = to_coco(content, self.layout, masks=self.masks, classes=self.classes, tolerate=self.tolerate)
        fatal = [problem for problem in problems if problem.fatal and problem.kind not in self.tolerate]
        if fatal:
            listed = "\n".join(f"  {problem}" for problem in fatal)
            raise DatasetError(f"{self.json_file} cannot be used as {self.layout.name}:\n{listed}")
        if problems:
            logger.info("%s:\n%s", self.json_file, "\n".join(f"  {problem}" for problem in problems))
        return json.dumps(result)


def register_amodal(
    name: str,
    source: AmodalSource,
    image_root: str | os.PathLike,
    *,
    extra_annotation_keys: Sequence[str] = (),
    **metadata: Any,
) -> CocoDataset:
    """Make an amodal set known to detectron2; the metadata's `json_file` is the COCO form, for evaluation.

    The metadata also get `masks` and `amodal_json_file`, the file that was registered.

    Raises:
        DatasetError: see `AmodalSource.prepare` and `register_coco`.
    """
    source.prepare()
    return register_coco(
        name,
        source.coco_json,
        image_root,
        extra_annotation_keys=(*RECORD_KEYS, *extra_annotation_keys),
        masks=source.masks,
        amodal_json_file=source.json_file,
        **metadata,
    )
