"""Kinds of built-in data sets: generated ones, and those that the user provides, under one root folder."""

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock

from ..errors import DatasetError
from .amodal import Layout, MaskKind
from .amodal_source import RECORD_KEYS, AmodalSource
from .coco import load_checked

logger = logging.getLogger(__name__)

ROOT_VARIABLE = "DETECTRON2_DATASETS"

Records = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Split(ABC):
    """One split of a set. Its paths are relative to the root, and known before any file is there.

    Attributes:
        json_file: the annotations.
        image_root: the folder of the images.
        classes: names in the order of class indices, for a predictor on a machine without the data.
        evaluator_type: for the catalog, as in detectron2.
        read: from the paths of the annotations and of the images, and the set's name, to checked records.
        extra: further entries of the catalog.
        paths: further entries of the catalog that are paths, relative to the root.
    """

    json_file: str
    image_root: str
    classes: tuple[str, ...]
    evaluator_type: str = "coco"
    read: Callable[[str, str, str], Records] = partial(load_checked, extra_annotation_keys=RECORD_KEYS)
    extra: dict[str, Any] = field(default_factory=dict)
    paths: dict[str, str] = field(default_factory=dict)

    @abstractmethod
    def prepare(self, name: str, root: str) -> None:
        """Make sure that the files are there.

        Raises:
            DatasetError: they are not, and cannot be made.
        """

    def evaluation_json(self, root: str) -> str:
        """Path of the annotations that evaluation reads."""
        return os.path.join(root, self.json_file)

    def images(self, root: str) -> str:
        """Path of the folder of the images."""
        return os.path.join(root, self.image_root)

    def load(self, name: str, root: str) -> Records:
        """Records in detectron2's format, of files that are there."""
        return self.read(self.evaluation_json(root), self.images(root), name)

    def metadata(self, root: str) -> dict[str, Any]:
        """What the catalog says about the set."""
        return {
            "json_file": self.evaluation_json(root),
            "image_root": self.images(root),
            "evaluator_type": self.evaluator_type,
            "thing_classes": list(self.classes),
            **self.extra,
            **{key: os.path.join(root, path) for key, path in self.paths.items()},
        }


@dataclass(frozen=True, kw_only=True)
class Generated(Split):
    """One split of a generated set; several names may share a folder.

    Attributes:
        folder: in the root; its name holds all that the content depends on.
        write: called with the folder's path and `overwrite=True`, puts the complete folder there and returns
            statistics. It must refuse folders that are not its own, and leave nothing behind when it fails.
    """

    folder: str
    write: Callable[..., Any]

    def prepare(self, name: str, root: str) -> None:
        """Generate the split unless it is there. Processes that ask at once wait for the first of them."""
        out, needed = Path(root, self.folder), Path(self.evaluation_json(root))
        if needed.exists():
            return
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(out.parent / f".{out.name}.lock"):
                if needed.exists():
                    return
                logger.info("generating %s in %s", name, out)
                statistics = self.write(out, overwrite=True)
        except OSError as error:
            raise DatasetError(
                f"cannot generate '{name}' in {out}: {error}; set {ROOT_VARIABLE} to a folder with write access"
            ) from error
        logger.info("%s: %s", name, statistics)


@dataclass(frozen=True, kw_only=True)
class OnDisk(Split):
    """One split of a set that the user provides; `tree` shows what the root must hold."""

    tree: str

    @property
    def needed(self) -> tuple[str, ...]:
        """Files and folders that must be there, relative to the root."""
        return self.json_file, self.image_root

    def prepare(self, name: str, root: str) -> None:
        """Raise one error with the expected tree unless all that is needed is there."""
        missing = [path for path in self.needed if not Path(root, path).exists()]
        if not missing:
            return
        setting = os.environ.get(ROOT_VARIABLE)
        where = f"{ROOT_VARIABLE}={setting}" if setting else f"{ROOT_VARIABLE} is not set, so it is ./datasets"
        raise DatasetError(
            f"data set '{name}' is not there: no {' and no '.join(missing)} in {Path(root).absolute()} ({where}).\n"
            f"Expected tree:\n{self.tree}\n"
            f"Put it there, or set the environment variable {ROOT_VARIABLE} to the folder that holds it before "
            "Python starts."
        )


@dataclass(frozen=True, kw_only=True)
class AmodalOnDisk(OnDisk):
    """One split of an amodal set that the user provides, in another layout than COCO's; see `AmodalSource`."""

    layout: Layout
    masks: MaskKind = "amodal"
    tolerate: frozenset[str] = frozenset()

    def _source(self, root: str) -> AmodalSource:
        return AmodalSource(
            json_file=os.path.join(root, self.json_file),
            layout=self.layout,
            masks=self.masks,
            classes=self.classes,
            tolerate=self.tolerate,
        )

    def prepare(self, name: str, root: str) -> None:
        """Also make the COCO form unless it is there."""
        super().prepare(name, root)
        self._source(root).prepare()

    def evaluation_json(self, root: str) -> str:
        """Path of the COCO form."""
        return os.fspath(self._source(root).coco_json)

    def metadata(self, root: str) -> dict[str, Any]:
        """Also which masks it has, and the file that they are from."""
        source = self._source(root)
        return {**super().metadata(root), "masks": source.masks, "amodal_json_file": source.json_file}
