"""COCOA: amodal regions of COCO images in the order of depth, without classes, as published and as passed on."""

import os
from collections.abc import Collection, Sequence
from typing import Any

from ..errors import DatasetError
from .amodal import Layout, MaskKind
from .amodal_source import AmodalSource, register_amodal
from .coco import CocoDataset
from .validation import Finding, is_integer, place, short

# COCOA names its regions freely; all of them are of one class.
COCOA_CLASSES = ("object",)


def _depths(orders: Sequence[int]) -> list[int]:
    """Orders count from 1, nearest first; numbers of regions that were taken out leave gaps."""
    rank = {order: depth for depth, order in enumerate(sorted(set(orders)))}
    return [rank[order] for order in orders]


def _where(annotation: dict) -> str:
    name = f" ('{annotation['name']}')" if "name" in annotation else ""
    order = f", number {annotation['order']} by depth" if "order" in annotation else ""
    return f"{place(annotation)}{name}{order}"


def _occluders(pairs: Any, ids: dict[int, int], where: str) -> tuple[dict[int, list[int]], list[Finding]]:
    """Ids of the regions before each region, from "i-j,..." (order i lies before order j)."""
    before: dict[int, list[int]] = {identity: [] for identity in ids.values()}
    findings: list[Finding] = []
    for pair in filter(None, str(pairs).split(",")):
        front, _, back = pair.strip().partition("-")
        orders = [int(part) if part.isdigit() else -1 for part in (front, back)]
        if all(order in ids for order in orders):
            before[ids[orders[1]]].append(ids[orders[0]])
        else:
            findings.append(("unknown-occluder", f"{where}: 'depth_constraint' has {short(pair)}"))
    return before, findings


def _annotation(region: dict, identity: int, image_id: Any) -> dict[str, Any]:
    """A region as an annotation of the form in which COCOA is passed on."""
    masks = ("segmentation", "visible_mask", "invisible_mask", "isStuff")
    annotation = {
        "id": identity,
        "image_id": image_id,
        "category_id": 1,
        **{key: value for key, value in region.items() if key not in masks},
        "is_stuff": int(bool(region.get("isStuff", 0))),
    }
    if isinstance(region.get("name"), str):
        annotation["name"] = region["name"].strip()
    outline = region.get("segmentation")
    # One polygon is written as its numbers, without a list around them.
    flat = isinstance(outline, list) and outline and not isinstance(outline[0], list)
    annotation["segmentation"] = [outline] if flat else outline
    if region.get("visible_mask") is not None:
        annotation["visible_segmentation"] = region["visible_mask"]
    elif region.get("occlude_rate") == 0:
        annotation["visible_segmentation"] = annotation["segmentation"]
    return annotation


def _flatten(content: dict) -> tuple[dict, list[Finding]]:
    """From one annotation an image with `regions` to one annotation a region; ids count from 1 in the file's order."""
    annotations: list[dict] = []
    findings: list[Finding] = []
    seen = set()
    for listed in content["annotations"]:
        image_id = listed.get("image_id") if isinstance(listed, dict) else None
        regions = listed.get("regions") if isinstance(listed, dict) else None
        if not isinstance(regions, list) or not all(isinstance(region, dict) for region in regions):
            findings.append(("bad-annotation", f"annotation of image {short(image_id)}: 'regions' is {short(regions)}"))
            continue
        if repr(image_id) in seen:
            findings.append(("annotated-twice", f"image {short(image_id)}"))
            continue
        seen.add(repr(image_id))
        first = len(annotations) + 1
        new = [_annotation(region, first + at, image_id) for at, region in enumerate(regions)]
        ids = {annotation["order"]: annotation["id"] for annotation in new if is_integer(annotation.get("order"))}
        if listed.get("depth_constraint") is not None:
            before, unknown = _occluders(listed["depth_constraint"], ids, f"image {image_id!r}")
            findings += unknown
            for annotation in new:
                annotation["occluders"] = before.get(annotation["id"], [])
        annotations += new
    categories = [{"id": 1, "name": COCOA_CLASSES[0]}]
    return {**content, "annotations": annotations, "categories": categories}, findings


def _normalise(content: Any) -> tuple[Any, list[Finding]]:
    if not isinstance(content, dict):
        return content, []
    if "regions" in content:
        raise DatasetError(
            f"this is the COCOA annotation of one image ({short(content.get('image_id'))}): put those of all images "
            "into one file, {'images': [{'id', 'file_name', 'height', 'width'}, ...], 'annotations': [this, ...]}"
        )
    annotations = content.get("annotations")
    if isinstance(annotations, list) and any(isinstance(one, dict) and "regions" in one for one in annotations):
        return _flatten(content)
    return content, []


COCOA = Layout(
    name="COCOA",
    amodal=("amodal_segmentation", "segmentation"),
    visible=("visible_segmentation", "visible_mask", "inmodal_seg"),
    # `bbox` is that of `segmentation`, which need not be the mask that is asked for.
    amodal_box=("amodal_bbox",),
    visible_box=("visible_bbox", "inmodal_bbox"),
    order="order",
    depth=_depths,
    normalise=_normalise,
    where=_where,
)


def register_cocoa(
    name: str,
    json_file: str | os.PathLike,
    image_root: str | os.PathLike,
    *,
    masks: MaskKind = "amodal",
    tolerate: Collection[str] = (),
    cache_folder: str | os.PathLike | None = None,
    extra_annotation_keys: Sequence[str] = (),
    **metadata: Any,
) -> CocoDataset:
    """Make a COCOA json known to detectron2 under a name, after reading and checking it.

    Two forms are read. As published: an annotation per image with `regions`, each with its outline `segmentation`,
    `order` (1 is the nearest), `name`, `isStuff`, and where something hides it `visible_mask`; all regions are of the
    class "object". As passed on: a COCO file whose annotations have the whole region as `segmentation`, the visible
    part as `visible_segmentation`, and `order`, `name`, `is_stuff`; classes are those of the file.

    Annotations of the records have `segmentation` and `bbox` as `masks` says, and `amodal_segmentation`,
    `visible_segmentation`, `covered` (hidden share of the whole, in [0, 1]), `depth` (0 is the nearest of the image),
    `name`, `is_stuff`, and `occluders` (ids of the regions before it) where the file says which are.

    Args:
        name: for `DatasetCatalog.get(name)` and configs.
        json_file: the annotations; neither this file nor its folder is written to.
        image_root: the folder that the json's `file_name` entries are relative to.
        masks: "amodal" or "visible". With "visible", regions of which nothing is visible are left out.
        tolerate: see `register_coco`; bad polygons are left out of evaluation too.
        cache_folder: for the COCO form that evaluation reads, see `AmodalSource`.
        extra_annotation_keys: further keys of the annotations to keep in the records.
        metadata: further entries for `MetadataCatalog`.

    Returns:
        The set; its `json_file` is the COCO form.

    Raises:
        DatasetError: the file is missing or broken (the message lists every kind of problem with its first
            occurrence), the images are not there, or the name is taken.
    """
    source = AmodalSource(
        json_file=os.fspath(json_file),
        layout=COCOA,
        masks=masks,
        tolerate=frozenset(tolerate),
        cache_folder=None if cache_folder is None else os.fspath(cache_folder),
    )
    return register_amodal(name, source, image_root, extra_annotation_keys=extra_annotation_keys, **metadata)
