"""Pascal VOC's instance masks, with those of SBD, made into COCO files that evaluation and detectron2's loader read.

Box-supervised methods train on "trainaug": VOC 2012's 1,464 images for training and all of SBD's (Hariharan et al.,
ICCV 2011) that are not in VOC's validation set, 10,582 in all. They are tested on VOC's 1,449 images for validation.

A mask has no box of its own there: as in the COCO forms of VOC that are in use, boxes are those of the masks. The band
of unlabelled pixels around VOC's objects belongs to none.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from pycocotools import mask as mask_util
from tqdm import tqdm

from ..errors import DatasetError
from .coco import CocoDataset, register_coco
from .derived import cache_folder, keep_derived
from .splits import OnDisk

logger = logging.getLogger(__name__)

# In VOC's order: the numbers of its class masks, from 1, are the category ids.
VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
TRAINAUG = "trainaug"

_UNLABELLED = 255

# Raised whenever the same files give another COCO form than before.
_FORM_VERSION = "1"


def _read_numbers(file: Path) -> np.ndarray:
    """The numbers (H, W) of a PNG with a palette."""
    try:
        with Image.open(file) as image:
            if image.mode not in ("P", "L"):
                raise DatasetError(
                    f"{file} has colors (mode {image.mode}) in place of numbers; a mask of VOC is a PNG with a palette"
                )
            return np.asarray(image)
    except FileNotFoundError:
        raise DatasetError(f"no mask {file}; its image is in the list of the split") from None
    except (OSError, UnidentifiedImageError) as error:
        raise DatasetError(f"cannot read {file}: {error}; copy or download it again") from error


def read_voc_objects(class_file: str | os.PathLike, object_file: str | os.PathLike) -> tuple[np.ndarray, list[int]]:
    """Read the masks of one image.

    Args:
        class_file: of the folder SegmentationClass.
        object_file: of the folder SegmentationObject.

    Returns:
        (H, W) uint8 with 0 for background and i for the i-th object, and the objects' category ids.

    Raises:
        DatasetError: a file is missing or damaged, the two differ in size, or an object has no class.
    """
    classes, objects = (_read_numbers(Path(file)) for file in (class_file, object_file))
    if classes.shape != objects.shape:
        raise DatasetError(f"{class_file} is of size {classes.shape}, {object_file} of size {objects.shape}")
    numbers, categories = np.zeros_like(objects), []
    for value in np.unique(objects[(objects > 0) & (objects != _UNLABELLED)]):
        inside = objects == value
        labels = classes[inside & (classes > 0) & (classes != _UNLABELLED)]
        if not len(labels):
            raise DatasetError(f"object {value} of {object_file} has no class in {class_file}")
        categories.append(int(np.bincount(labels).argmax()))
        numbers[inside] = len(categories)
    return numbers, categories


def read_sbd_objects(mat_file: str | os.PathLike) -> tuple[np.ndarray, list[int]]:
    """Read the masks of one image of SBD's folder `inst`; see `read_voc_objects`.

    Raises:
        DatasetError: the file is missing or damaged, or not of that folder.
    """
    # Importing it takes longer than all else here, and it is for these files alone.
    from scipy.io import loadmat

    try:
        content = loadmat(os.fspath(mat_file), squeeze_me=True, struct_as_record=False)["GTinst"]
        numbers, categories = content.Segmentation, np.atleast_1d(content.Categories).tolist()
    except FileNotFoundError:
        raise DatasetError(f"no mask {mat_file}; its image is in the list of the split") from None
    except Exception as error:  # of many types, for damaged files
        raise DatasetError(
            f"cannot read {mat_file} as a file of SBD's folder inst: {type(error).__name__}: {error}"
        ) from error
    if numbers.max(initial=0) > len(categories):
        raise DatasetError(f"{mat_file} has {len(categories)} categories for objects up to {numbers.max()}")
    return numbers.astype(np.uint8), [int(category) for category in categories]


def _names(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").split()
    except OSError as error:
        raise DatasetError(f"cannot read the list of images {file}: {error}") from error


def _annotations(numbers: np.ndarray, categories: list[int]) -> Iterator[dict[str, Any]]:
    """COCO annotations without ids of the objects that have pixels."""
    for number, category in enumerate(categories, start=1):
        rle = mask_util.encode(np.asfortranarray(numbers == number, dtype=np.uint8))
        if area := int(mask_util.area(rle)):
            yield {
                "category_id": category,
                "iscrowd": 0,
                "area": area,
                "bbox": mask_util.toBbox(rle).tolist(),
                "segmentation": {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")},
            }


@dataclass(frozen=True)
class VocSource:
    """A split in VOC's own folders, and its COCO form.

    Attributes:
        folder: has ImageSets/Segmentation, SegmentationClass and SegmentationObject; only read.
        split: a list of ImageSets/Segmentation, or "trainaug", which is "train" and all of SBD but "val".
        sbd_folder: has train.txt, val.txt and inst; for "trainaug".
        cache_folder: where COCO forms are kept, see `derived.cache_folder`.
    """

    folder: str
    split: str
    sbd_folder: str | None = None
    cache_folder: str | None = None

    def __post_init__(self):
        if self.split == TRAINAUG and self.sbd_folder is None:
            raise DatasetError("split='trainaug' needs sbd_folder, the folder of SBD")

    @property
    def list_file(self) -> Path:
        """The list of VOC's images."""
        return self._list("train" if self.split == TRAINAUG else self.split)

    def _list(self, split: str) -> Path:
        return Path(self.folder, "ImageSets/Segmentation", f"{split}.txt")

    @property
    def coco_json(self) -> Path:
        """Path of the COCO form; it depends on nothing but the attributes, and is there after `prepare`."""
        paths = [self.folder, *([self.sbd_folder] if self.split == TRAINAUG else [])]
        digest = hashlib.sha256(repr([os.path.abspath(path) for path in paths]).encode()).hexdigest()[:12]
        return cache_folder(self.cache_folder) / f"voc_v{_FORM_VERSION}" / f"{self.split}_{digest}.json"

    def prepare(self) -> None:
        """Write the COCO form unless that of the present list of VOC's images is there.

        Raises:
            DatasetError: files are missing or damaged, or the cache folder cannot be written.
        """
        keep_derived(self.list_file, self.coco_json, lambda: json.dumps(self.content()))

    def content(self) -> dict[str, Any]:
        """The COCO form; `file_name` entries are relative to VOC's JPEGImages.

        Raises:
            DatasetError: files are missing or damaged.
        """
        images, annotations = [], []
        # A bar where a terminal shows it: SBD takes minutes.
        for name, read in tqdm(
            self._sources(), desc=f"masks of VOC {self.split}", unit="image", disable=None, leave=False
        ):
            numbers, categories = read()
            image_id = len(images) + 1
            height, width = numbers.shape
            images.append({"id": image_id, "file_name": f"{name}.jpg", "height": height, "width": width})
            for annotation in _annotations(numbers, categories):
                annotations.append({"id": len(annotations) + 1, "image_id": image_id, **annotation})
        logger.info("%s: %d images, %d objects", self.split, len(images), len(annotations))
        categories = [{"id": at, "name": name} for at, name in enumerate(VOC_CLASSES, start=1)]
        return {"images": images, "annotations": annotations, "categories": categories}

    def _sources(self) -> list[tuple[str, Callable[[], tuple[np.ndarray, list[int]]]]]:
        """Per image its name and what reads its objects; VOC's own masks come first, and win."""
        own = _names(self.list_file)
        sources = [(name, partial(self._read_own, name)) for name in own]
        if self.split == TRAINAUG:
            folder = Path(self.sbd_folder)
            others = {*_names(folder / "train.txt"), *_names(folder / "val.txt")} - {*own, *_names(self._list("val"))}
            sources += [(name, partial(read_sbd_objects, folder / "inst" / f"{name}.mat")) for name in sorted(others)]
        return sources

    def _read_own(self, name: str) -> tuple[np.ndarray, list[int]]:
        return read_voc_objects(
            *(Path(self.folder, kind, f"{name}.png") for kind in ("SegmentationClass", "SegmentationObject"))
        )


@dataclass(frozen=True, kw_only=True)
class VocOnDisk(OnDisk):
    """One split of VOC that the user provides.

    Attributes:
        folder, split, sbd_folder: see `VocSource`; folders are relative to the root.
    """

    folder: str
    split: str
    sbd_folder: str | None = None

    def _source(self, root: str) -> VocSource:
        sbd_folder = None if self.sbd_folder is None else os.path.join(root, self.sbd_folder)
        return VocSource(folder=os.path.join(root, self.folder), split=self.split, sbd_folder=sbd_folder)

    @property
    def needed(self) -> tuple[str, ...]:
        """Also the folders of the masks."""
        masks = [f"{self.folder}/SegmentationClass", f"{self.folder}/SegmentationObject"]
        return (*super().needed, *masks, *([f"{self.sbd_folder}/inst"] if self.sbd_folder else []))

    def prepare(self, name: str, root: str) -> None:
        """Also make the COCO form unless it is there."""
        super().prepare(name, root)
        self._source(root).prepare()

    def evaluation_json(self, root: str) -> str:
        """Path of the COCO form."""
        return os.fspath(self._source(root).coco_json)

    def metadata(self, root: str) -> dict[str, Any]:
        """Also the list of images that it is made from (`list_file`)."""
        return {**super().metadata(root), "list_file": os.fspath(self._source(root).list_file)}


_VOC_TREE = """\
  VOC2012/                      (VOCtrainval_11-May-2012, out of its folder VOCdevkit)
    ImageSets/Segmentation/train.txt, val.txt
    JPEGImages/*.jpg
    SegmentationClass/*.png
    SegmentationObject/*.png"""

_SBD_TREE = """
  SBD/                          (the folder dataset of SBD's benchmark_RELEASE)
    train.txt, val.txt
    inst/*.mat"""


def voc_splits() -> dict[str, OnDisk]:
    """The built-in splits by name. `voc_2012_train` and its like are detectron2's, for detection."""

    def on_disk(split: str) -> VocOnDisk:
        augmented = split == TRAINAUG
        return VocOnDisk(
            json_file=f"VOC2012/ImageSets/Segmentation/{'train' if augmented else split}.txt",
            image_root="VOC2012/JPEGImages",
            classes=VOC_CLASSES,
            tree=_VOC_TREE + (_SBD_TREE if augmented else ""),
            folder="VOC2012",
            split=split,
            sbd_folder="SBD" if augmented else None,
        )

    return {f"voc_2012_inst_{split}": on_disk(split) for split in ("train", TRAINAUG, "val")}


def register_voc(
    name: str,
    folder: str | os.PathLike,
    split: str,
    *,
    sbd_folder: str | os.PathLike | None = None,
    cache_folder: str | os.PathLike | None = None,
    **metadata: Any,
) -> CocoDataset:
    """Make instance masks in VOC's layout known to detectron2 under a name, after reading and checking them.

    Args:
        name: for `DatasetCatalog.get(name)` and configs.
        folder: see `VocSource`.
        split: see `VocSource`.
        sbd_folder: see `VocSource`.
        cache_folder: see `VocSource`.
        metadata: further entries for `MetadataCatalog`.

    Returns:
        The set; its `json_file` is the COCO form.

    Raises:
        DatasetError: files are missing or damaged, or the name is taken.
    """
    source = VocSource(
        folder=os.fspath(folder),
        split=split,
        sbd_folder=None if sbd_folder is None else os.fspath(sbd_folder),
        cache_folder=None if cache_folder is None else os.fspath(cache_folder),
    )
    source.prepare()
    return register_coco(name, source.coco_json, Path(folder, "JPEGImages"), **metadata)
