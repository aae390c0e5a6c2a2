"""The data sets that recipes name, under the folder `DETECTRON2_DATASETS` (default `./datasets`).

Registration reads nothing. A set is looked for, or in the case of OccShapes generated, when its records are first
asked for; `prepare_dataset` does that without loading them.
"""

import logging
import os
from functools import partial

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..synthetic.occshapes import AMODAL_FILE, ANNOTATION_FILE, GENERATOR_VERSION, IMAGE_FOLDER, write_occshapes
from ..synthetic.outlines import CATEGORIES
from ..synthetic.video_formats import YTVIS_FILE
from ..synthetic.video_set import VIDEO_GENERATOR_VERSION, write_occvideo
from .bdd100k import MOTS_EVALUATOR, bdd100k_splits, load_bdd100k
from .coco_occ import occluded_splits
from .cocoa import COCOA, COCOA_CLASSES
from .kins import KINS, KINS_CLASSES
from .splits import ROOT_VARIABLE, AmodalOnDisk, Generated, OnDisk, Records, Split
from .video_catalog import numbered
from .voc import voc_splits
from .youtube_vis import YOUTUBE_VIS_EVALUATOR, load_youtube_vis, youtube_vis_splits

logger = logging.getLogger(__name__)

OCCSHAPES_SIZE = 128
OCCVIDEO_SIZE = 128

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

_KINS_TREE = """\
  kins/
    annotations/update_train_2020.json, update_test_2020.json
    training/image_2/*.png      (KITTI, left colour images of the object data set)
    testing/image_2/*.png"""

_COCOA_TREE = """\
  cocoa/
    annotations/COCO_amodal_train2014.json, COCO_amodal_val2014.json
  coco/
    train2014/*.jpg
    val2014/*.jpg"""

_COCOA_SAMPLES_TREE = """\
  cocoa_amodal_samples/
    annotations/amodal.json
    images/*.jpg"""

_SHAPES = tuple(category.name for category in CATEGORIES)
_COCO_CLASSES = tuple(MetadataCatalog.get("coco_2017_val").thing_classes)

# Outlines drawn by hand may have slivers of one or two points; without them the instances are as good.
_HAND_DRAWN = frozenset({"bad-polygon"})


def occshapes_split(split: str, *, images: int, seed: int, size: int = OCCSHAPES_SIZE, amodal: bool = False) -> Split:
    """One split of OccShapes, with visible masks or, from the same folder, with amodal ones."""
    folder = f"occshapes/v{GENERATOR_VERSION}/{split}_{images}x{size}_seed{seed}"
    return Generated(
        folder=folder,
        write=partial(write_occshapes, images=images, seed=seed, size=size, progress=False),
        json_file=f"{folder}/{AMODAL_FILE if amodal else ANNOTATION_FILE}",
        image_root=f"{folder}/{IMAGE_FOLDER}",
        classes=_SHAPES,
        extra={"masks": "amodal" if amodal else "visible"},
    )


def occvideo_splits(split: str, *, videos: int, frames: int, seed: int, size: int = OCCVIDEO_SIZE) -> dict[str, Split]:
    """One split of OccVideo by name, in the layout of YouTube-VIS and, from the same folder, in that of BDD100K."""
    folder = f"occvideo/v{VIDEO_GENERATOR_VERSION}/{split}_{videos}x{frames}x{size}_seed{seed}"
    write = partial(
        write_occvideo,
        videos=videos,
        frames=frames,
        seed=seed,
        size=size,
        layouts=("ytvis", "mots"),
        progress=False,
    )
    common = {
        "folder": folder,
        "write": write,
        "classes": _SHAPES,
        "extra": {"thing_dataset_id_to_contiguous_id": numbered(_SHAPES).indices},
    }
    return {
        f"occvideo_{split}": Generated(
            json_file=f"{folder}/ytvis/{YTVIS_FILE}",
            image_root=f"{folder}/ytvis/JPEGImages",
            evaluator_type=YOUTUBE_VIS_EVALUATOR,
            read=load_youtube_vis,
            **common,
        ),
        f"occvideo_mots_{split}": Generated(
            json_file=f"{folder}/mots/rles",
            image_root=f"{folder}/mots/images",
            paths={"bitmask_root": f"{folder}/mots/bitmasks"},
            evaluator_type=MOTS_EVALUATOR,
            read=load_bdd100k,
            **common,
        ),
    }


def _on_disk_splits(split: str) -> dict[str, Split]:
    """The split "train" or "val" of every set that the user provides."""
    kins_split, kitti_split = {"train": ("train", "training"), "val": ("test", "testing")}[split]
    return {
        f"mandarin_{split}": OnDisk(
            json_file=f"mandarin/annotations/instances_{split}.json",
            image_root=f"mandarin/{split}",
            classes=("mandarin",),
            tree=_MANDARIN_TREE,
        ),
        f"nuclei_{split}": OnDisk(
            json_file=f"dsb2018_nuclei/annotations/instances_{split}.json",
            image_root="dsb2018_nuclei",
            classes=("nucleus",),
            tree=_NUCLEI_TREE,
        ),
        f"coco_mini_{split}": OnDisk(
            json_file=f"coco_mini/annotations/instances_{split}2017.json",
            image_root=f"coco_mini/{split}2017",
            classes=_COCO_CLASSES,
            tree=_COCO_MINI_TREE,
        ),
        f"kins_{split}": AmodalOnDisk(
            json_file=f"kins/annotations/update_{kins_split}_2020.json",
            image_root=f"kins/{kitti_split}/image_2",
            classes=KINS_CLASSES,
            tree=_KINS_TREE,
            layout=KINS,
            tolerate=_HAND_DRAWN,
        ),
        f"cocoa_{split}": AmodalOnDisk(
            json_file=f"cocoa/annotations/COCO_amodal_{split}2014.json",
            image_root=f"coco/{split}2014",
            classes=COCOA_CLASSES,
            tree=_COCOA_TREE,
            layout=COCOA,
            tolerate=_HAND_DRAWN,
        ),
    }


_SPLITS: dict[str, Split] = {
    "occshapes_train": occshapes_split("train", images=600, seed=0),
    "occshapes_val": occshapes_split("val", images=150, seed=1),
    "occshapes_amodal_train": occshapes_split("train", images=600, seed=0, amodal=True),
    "occshapes_amodal_val": occshapes_split("val", images=150, seed=1, amodal=True),
    "cocoa_samples": AmodalOnDisk(
        json_file="cocoa_amodal_samples/annotations/amodal.json",
        image_root="cocoa_amodal_samples/images",
        classes=COCOA_CLASSES,
        tree=_COCOA_SAMPLES_TREE,
        layout=COCOA,
    ),
    **_on_disk_splits("train"),
    **_on_disk_splits("val"),
    **voc_splits(),
    **occvideo_splits("train", videos=60, frames=16, seed=0),
    **occvideo_splits("val", videos=16, frames=24, seed=1),
    **youtube_vis_splits(),
    **bdd100k_splits(),
}
_SPLITS.update(occluded_splits(_SPLITS["occshapes_val"], _SPLITS["occshapes_amodal_val"]))

BUILTIN_DATASETS = tuple(_SPLITS)

_roots: dict[str, str] = {}


def prepare_dataset(name: str) -> None:
    """Make sure that the files of a named set are there, and do nothing for foreign names.

    Generates OccShapes, and makes the COCO form of amodal sets and of VOC. Call it before an evaluator that opens
    `json_file` of the metadata on its own.

    Raises:
        DatasetError: the files are missing or cannot be written.
    """
    if name in _roots:
        _SPLITS[name].prepare(name, _roots[name])


def _load(name: str, root: str) -> Records:
    prepare_dataset(name)
    return _SPLITS[name].load(name, root)


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
        DatasetCatalog.register(name, partial(_load, name, folder))
        MetadataCatalog.get(name).set(**split.metadata(folder))
        _roots[name] = folder
