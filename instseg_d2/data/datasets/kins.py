"""KINS: amodal instances of street scenes (KITTI images), with clusters and the order of depth in them."""

import os
from collections.abc import Collection, Sequence
from typing import Any

from .amodal import Layout, MaskKind
from .amodal_source import AmodalSource, register_amodal
from .coco import CocoDataset

# The classes of the annotations of 2020 that have instances, by category id.
KINS_CLASSES = ("cyclist", "pedestrian", "car", "tram", "truck", "van", "misc")


def _depths(orders: Sequence[int]) -> list[int]:
    """An `ico_id` is 0 for an instance that meets no other, else it counts from 1 in its cluster, nearest first."""
    return [max(order - 1, 0) for order in orders]


# The second keys are those of the annotations of 2019, which know no order.
KINS = Layout(
    name="KINS",
    amodal=("a_segm", "segmentation"),
    visible=("i_segm", "inmodal_seg"),
    amodal_box=("a_bbox", "bbox"),
    visible_box=("i_bbox", "inmodal_bbox"),
    order="ico_id",
    depth=_depths,
)


def register_kins(
    name: str,
    json_file: str | os.PathLike,
    image_root: str | os.PathLike,
    *,
    masks: MaskKind = "amodal",
    classes: Sequence[str] | None = None,
    tolerate: Collection[str] = (),
    cache_folder: str | os.PathLike | None = None,
    extra_annotation_keys: Sequence[str] = (),
    **metadata: Any,
) -> CocoDataset:
    """Make a KINS json known to detectron2 under a name, after reading and checking it.

    It has COCO's lists, and in each annotation the whole instance as `a_segm`, `a_bbox` and the visible part as
    `i_segm`, `i_bbox` (polygons or run lengths), its cluster `oco_id` and its order there, `ico_id`. Annotations of
    the records have `segmentation` and `bbox` as `masks` says, and `amodal_segmentation`, `visible_segmentation`,
    `covered` (hidden share of the whole, in [0, 1]) and `depth`: of two instances that meet, the nearer one has the
    smaller depth, and 0 is nearest; between clusters depths say nothing.

    Args:
        name: for `DatasetCatalog.get(name)` and configs.
        json_file: the annotations; neither this file nor its folder is written to.
        image_root: the folder that the json's `file_name` entries are relative to.
        masks: "amodal" or "visible". With "visible", instances of which nothing is visible are left out.
        classes: when given, the file must have these categories; others are left out unless an instance has them.
        tolerate: see `register_coco`; bad polygons are left out of evaluation too.
        cache_folder: for the COCO form that evaluation reads, see `AmodalSource`.
        extra_annotation_keys: further keys of the annotations to keep in the records, such as "oco_id".
        metadata: further entries for `MetadataCatalog`.

    Returns:
        The set; its `json_file` is the COCO form.

    Raises:
        DatasetError: the file is missing or broken (the message lists every kind of problem with its first
            occurrence), the images are not there, or the name is taken.
    """
    source = AmodalSource(
        json_file=os.fspath(json_file),
        layout=KINS,
        masks=masks,
        classes=None if classes is None else tuple(classes),
        tolerate=frozenset(tolerate),
        cache_folder=None if cache_folder is None else os.fspath(cache_folder),
    )
    return register_amodal(name, source, image_root, extra_annotation_keys=extra_annotation_keys, **metadata)
