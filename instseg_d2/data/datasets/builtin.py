"""The data sets that recipes name, under the folder `DETECTRON2_DATASETS` (default `./datasets`).

Registration reads nothing. A set is looked for, or in the case of OccShapes generated, when its records are first
asked for; `prepare_dataset` does that without loading them.
"""

import logging
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from filelock import FileLock

from ..errors import DatasetError
from ..synthetic.occshapes import ANNOTATION_FILE, GENERATOR_VERSION, IMAGE_FOLDER, write_occshapes
from ..synthetic.outlines import CATEGORIES
from .coco import load_checked

logger = logging.getLogger(__name__)

ROOT_VARIABLE = "DETECTRON2_DATASETS"

OCCSHAPES_SIZE = 128


@dataclass(frozen=True)
class _Generated:
    """One split of OccShapes; the folder's name holds all that the pictures depend on."""

    split: str
    images: int
    seed: int
    size: int = OCCSHAPES_SIZE

    @property
    def folder(self) -> str:
        return f"occshapes/v{GENERATOR_VERSION}/{self.split}_{self.images}x{self.size}_seed{self.seed}"

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(category.name for category in CATEGORIES)

    @property
    def json_file(self) -> str:
        return f"{self.folder}/{ANNOTATION_FILE}"

    @property
    def image_root(self) -> str:
        return f"{self.folder}/{IMAGE_FOLDER}"

    def prepare(self, name: str, root: str) -> None:
        """Generate the split unless it is there. Processes that ask at once wait for the first of them."""
        out = Path(root, self.folder)
        if (out / ANNOTATION_FILE).is_file():
            return
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(out.parent / f".{out.name}.lock"):
                if (out / ANNOTATION_FILE).is_file():
                    return
                logger.info("generating %s: %d images of %d px in %s", name, self.images, self.size, out)
                statistics = write_occshapes(out, images=self.images, seed=self.seed, size=self.size, progress=False)
        except OSError as error:
            raise DatasetError(
                f"cannot generate '{name}' in {out}: {error}; set {ROOT_VARIABLE} to a folder with write access"
            ) from error
        logger.info("%s: %s", name, statistics)


@dataclass(frozen=True)
class _OnDisk:
    """One split of a set that the user provides; `tree` shows what its folder must hold.

    `classes` are the names in the order of class indices, for a predictor on a machine without the data.
    """

    json_file: str
    image_root: str
    classes: tuple[str, ...]
    tree: str

    def prepare(self, name: str, root: str) -> None:
        """Raise one error with the expected tree unless the json and the image folder are there."""
        missing = [path for path in (self.json_file, self.image_root) if not Path(root, path).exists()]
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


_MANDARIN_TREE = """\
  mandarin/
    annotations/instances_train.json, instances_val.json
    train/*.jpg
    val/*.jpg"""

_NUCLEI_TREE = """\
  dsb2018_nuclei/
    annotations/instances_train.json, instances_val.json
    images/*.png"""

_COCO_MINI_TREE = """\
  coco_mini/
    annotations/instances_train2017.json, instances_val2017.json
    train2017/*.jpg
    val2017/*.jpg"""

_COCO_CLASSES = tuple(MetadataCatalog.get("coco_2017_val").thing_classes)

_SPLITS: dict[str, _Generated | _OnDisk] = {
    "occshapes_train": _Generated("train", images=600, seed=0),
    "occshapes_val": _Generated("val", images=150, seed=1),
}
for _split in ("train", "val"):
    _SPLITS[f"mandarin_{_split}"] = _OnDisk(
        f"mandarin/annotations/instances_{_split}.json", f"mandarin/{_split}", ("mandarin",), _MANDARIN_TREE
    )
    _SPLITS[f"nuclei_{_split}"] = _OnDisk(
        f"dsb2018_nuclei/annotations/instances_{_split}.json", "dsb2018_nuclei", ("nucleus",), _NUCLEI_TREE
    )
    _SPLITS[f"coco_mini_{_split}"] = _OnDisk(
        f"coco_mini/annotations/instances_{_split}2017.json", f"coco_mini/{_split}2017", _COCO_CLASSES, _COCO_MINI_TREE
    )

BUILTIN_DATASETS = tuple(_SPLITS)

_roots: dict[str, str] = {}


def prepare_dataset(name: str) -> None:
    """Make sure that the files of a named set are there: generates OccShapes, and does nothing for foreign names.

    Call it before an evaluator that opens `json_file` of the metadata on its own.

    Raises:
        DatasetError: the files are missing or cannot be written.
    """
    if name in _roots:
        _SPLITS[name].prepare(name, _roots[name])


def _load(name: str, json_file: str, image_root: str) -> list[dict]:
    prepare_dataset(name)
    return load_checked(json_file, image_root, name)


def register_builtin(root: str | os.PathLike | None = None) -> None:
    """Register `BUILTIN_DATASETS`; reads no file. A later call with another root moves them there.

    Args:
        root: the folder of all data sets; by default the environment variable `DETECTRON2_DATASETS`, or `./datasets`.
    """
    folder = os.path.expanduser(root if root is not None else os.environ.get(ROOT_VARIABLE, "datasets"))
    for name, split in _SPLITS.items():
        if _roots.get(name) == folder and name in DatasetCatalog.list():
            continue
        if name in DatasetCatalog.list():
            if name not in _roots:
                logger.warning("the name '%s' is taken by another registration, which stays", name)
                continue
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
        json_file, image_root = os.path.join(folder, split.json_file), os.path.join(folder, split.image_root)
        DatasetCatalog.register(name, partial(_load, name, json_file, image_root))
        MetadataCatalog.get(name).set(
            json_file=json_file, image_root=image_root, evaluator_type="coco", thing_classes=list(split.classes)
        )
        _roots[name] = folder
