"""Registers the COCO sets under `$DETECTRON2_DATASETS` (by default ./datasets). Nothing is read before it is used."""

import os

from detectron2._left_out import left_out_function

from .builtin_meta import _get_builtin_metadata
from .coco import register_coco_instances

# Name -> image folder and suffix of the annotation file, both below coco/.
_SPLITS = {
    "2014_train": ("train2014", "train2014"),
    "2014_val": ("val2014", "val2014"),
    "2014_minival": ("val2014", "minival2014"),
    "2014_valminusminival": ("val2014", "valminusminival2014"),
    "2017_train": ("train2017", "train2017"),
    "2017_val": ("val2017", "val2017"),
    "2017_val_100": ("val2017", "val2017_100"),
}
_TEST_SPLITS = {"2017_test": ("test2017", "test2017"), "2017_test-dev": ("test2017", "test-dev2017")}


def _files(prefix: str, kind: str, splits: dict[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    return {
        f"{prefix}_{split}": (f"coco/{folder}", f"coco/annotations/{kind}_{suffix}.json")
        for split, (folder, suffix) in splits.items()
    }


# Kind of metadata -> name of the set -> image folder and annotation file, relative to the root.
_PREDEFINED_SPLITS_COCO = {
    "coco": _files("coco", "instances", _SPLITS) | _files("coco", "image_info", _TEST_SPLITS),
    "coco_person": _files("keypoints_coco", "person_keypoints", _SPLITS),
}


def register_all_coco(root: str) -> None:
    """Register the COCO sets with their files below `root`."""
    for kind, sets in _PREDEFINED_SPLITS_COCO.items():
        for name, (image_folder, json_file) in sets.items():
            register_coco_instances(
                name, _get_builtin_metadata(kind), os.path.join(root, json_file), os.path.join(root, image_folder)
            )


register_all_lvis = left_out_function("register_all_lvis", "LVIS")
register_all_cityscapes = left_out_function("register_all_cityscapes", "Cityscapes")
register_all_pascal_voc = left_out_function("register_all_pascal_voc", "the PASCAL VOC format")
register_all_ade20k = left_out_function("register_all_ade20k", "semantic segmentation")

register_all_coco(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")))
