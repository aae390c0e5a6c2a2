"""The truth of a drawn scene, and the json layouts it is written in: COCO, KINS and COCOA."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as mask_util

from .outlines import CATEGORIES
from .scene import Rendering, Scene

# An object with fewer visible pixels than this, at 128 x 128, is drawn but not annotated.
_LEAST_VISIBLE_SHARE = 24 / 128**2


@dataclass(frozen=True)
class Mask:
    """A mask as json: compressed run lengths, pixels, and the box [x, y, width, height] of the pixels."""

    rle: dict[str, Any]
    area: int
    box: list[float]


@dataclass(frozen=True)
class Instance:
    """An annotated object of a drawn scene.

    Attributes:
        id: unlike that of any other instance of the set.
        category: index into `CATEGORIES`.
        depth: 0 is the nearest annotated object of the image.
        covered: hidden share of the amodal area inside the frame, in [0, 1].
        visible, amodal, hidden: what is seen, the whole inside the frame, and the difference.
        occluders: ids of the nearer instances whose amodal masks meet this one's, nearest first.
        cluster: from 1, the same for all instances of the image that are connected by meeting amodal masks.
        layer: 0 if no amodal mask meets this one's; else 1 + the greatest layer among its occluders (1 without any).
    """

    id: int
    category: int
    depth: int
    covered: float
    visible: Mask
    amodal: Mask
    hidden: Mask
    occluders: tuple[int, ...]
    cluster: int
    layer: int


@dataclass(frozen=True)
class ImageTruth:
    """An image as COCO lists it, its instances (nearest first), and the number of objects that got no annotation."""

    image: dict[str, Any]
    instances: tuple[Instance, ...]
    left_out: int


def annotated(rendering: Rendering) -> np.ndarray:
    """Indices of the objects that get an annotation, nearest first: those with enough visible pixels; (n,) int64."""
    _, height, width = rendering.visible.shape
    least = max(1.0, _LEAST_VISIBLE_SHARE * height * width)
    return np.flatnonzero(rendering.visible.sum(axis=(1, 2)) >= least)


def _encode(masks: np.ndarray) -> list[Mask]:
    if not len(masks):
        return []
    encoded = mask_util.encode(np.asfortranarray(masks.transpose(1, 2, 0), dtype=np.uint8))
    areas, boxes = mask_util.area(encoded).tolist(), mask_util.toBbox(encoded).tolist()
    return [
        Mask({"size": rle["size"], "counts": rle["counts"].decode("ascii")}, area, box)
        for rle, area, box in zip(encoded, areas, boxes, strict=True)
    ]


def _meetings(masks: np.ndarray) -> np.ndarray:
    """(n, n) bool: the two masks share a pixel; false on the diagonal."""
    flat = masks.reshape(len(masks), np.prod(masks.shape[1:])).astype(np.float32)
    return (flat @ flat.T > 0) & ~np.eye(len(masks), dtype=bool)


def _clusters(meets: np.ndarray) -> np.ndarray:
    """(n,) numbers from 1 of the connected groups of a symmetric relation (n, n)."""
    reach = meets | np.eye(len(meets), dtype=bool)
    for _ in range(len(meets).bit_length()):
        reach = reach @ reach
    return np.unique(reach.argmax(axis=1), return_inverse=True)[1] + 1 if len(meets) else np.zeros(0, dtype=int)


def _layers(meets: np.ndarray) -> list[int]:
    """`Instance.layer` of instances in the order of depth."""
    layers: list[int] = []
    for index, row in enumerate(meets):
        in_front = [layers[nearer] for nearer in np.flatnonzero(row[:index])]
        layers.append(1 + max(in_front, default=0) if row.any() else 0)
    return layers


def image_truth(index: int, scene: Scene, rendering: Rendering) -> ImageTruth:
    """Everything that is written about scene number `index` of a set; ids depend on that number alone."""
    image = {"id": index + 1, "file_name": f"{index:06d}.png", "height": scene.height, "width": scene.width}
    shown = annotated(rendering)
    visible, amodal = rendering.visible[shown], rendering.amodal[shown]
    meets = _meetings(amodal)
    clusters, layers = _clusters(meets), _layers(meets)
    masks = zip(_encode(visible), _encode(amodal), _encode(amodal & ~visible), strict=True)
    first_id = image["id"] * 100
    instances = tuple(
        Instance(
            id=first_id + depth,
            category=scene.objects[number].category,
            depth=depth,
            covered=round(float(rendering.covered[number]), 4),
            visible=seen,
            amodal=whole,
            hidden=unseen,
            occluders=tuple(int(first_id + nearer) for nearer in np.flatnonzero(meets[depth, :depth])),
            cluster=int(clusters[depth]),
            layer=layers[depth],
        )
        for depth, (number, (seen, whole, unseen)) in enumerate(zip(shown, masks, strict=True))
    )
    return ImageTruth(image, instances, len(scene.objects) - len(shown))


def category_records() -> list[dict[str, Any]]:
    """COCO's list of the ten categories; ids from 1 on."""
    return [
        {"id": number, "name": category.name, "supercategory": "seen" if category.seen else "unseen"}
        for number, category in enumerate(CATEGORIES, start=1)
    ]


def _envelope(info: dict[str, Any], truths: Sequence[ImageTruth], annotations: Iterable[dict]) -> dict[str, Any]:
    return {
        "info": info,
        "licenses": [],
        "categories": category_records(),
        "images": [truth.image for truth in truths],
        "annotations": list(annotations),
    }


def _common(truth: ImageTruth, instance: Instance) -> dict[str, Any]:
    return {
        "id": instance.id,
        "image_id": truth.image["id"],
        "category_id": instance.category + 1,
        "iscrowd": 0,
    }


def _coco_annotation(truth: ImageTruth, instance: Instance, mask: Mask) -> dict[str, Any]:
    return {
        **_common(truth, instance),
        "area": mask.area,
        "bbox": mask.box,
        "segmentation": mask.rle,
        "amodal_segmentation": instance.amodal.rle,
        "visible_segmentation": instance.visible.rle,
        "depth": instance.depth,
        "covered": instance.covered,
        "occluders": list(instance.occluders),
    }


def coco_content(info: dict[str, Any], truths: Sequence[ImageTruth]) -> dict[str, Any]:
    """COCO with visible masks.

    Beyond COCO's keys an annotation has `amodal_segmentation`, `visible_segmentation`, `depth`, `covered` and
    `occluders`, see `Instance`.
    """
    pairs = ((truth, instance) for truth in truths for instance in truth.instances)
    return _envelope(info, truths, (_coco_annotation(truth, one, one.visible) for truth, one in pairs))


def amodal_coco_content(info: dict[str, Any], truths: Sequence[ImageTruth]) -> dict[str, Any]:
    """COCO with amodal masks, in the form in which COCOA is passed on: `coco_content` plus COCOA's keys."""
    annotations = (
        {
            **_coco_annotation(truth, one, one.amodal),
            "name": CATEGORIES[one.category].name,
            "is_stuff": 0,
            "order": one.depth + 1,
            "occlude_rate": one.covered,
        }
        for truth in truths
        for one in truth.instances
    )
    return _envelope(info, truths, annotations)


def kins_content(info: dict[str, Any], truths: Sequence[ImageTruth]) -> dict[str, Any]:
    """KINS: keys a_* amodal and i_* visible, `oco_id` the cluster, `ico_id` the layer in it (0: meets nothing)."""
    annotations = (
        {
            **_common(truth, one),
            "a_area": one.amodal.area,
            "a_bbox": one.amodal.box,
            "a_segm": one.amodal.rle,
            "i_area": one.visible.area,
            "i_bbox": one.visible.box,
            "i_segm": one.visible.rle,
            "oco_id": one.cluster,
            "ico_id": one.layer,
        }
        for truth in truths
        for one in truth.instances
    )
    return _envelope(info, truths, annotations)


def _region(instance: Instance) -> dict[str, Any]:
    region = {
        "name": CATEGORIES[instance.category].name,
        "segmentation": instance.amodal.rle,
        "area": instance.amodal.area,
        "order": instance.depth + 1,
        "isStuff": 0,
        "occlude_rate": instance.covered,
    }
    if instance.hidden.area:
        region |= {"visible_mask": instance.visible.rle, "invisible_mask": instance.hidden.rle}
    return region


def _depth_constraint(instances: Sequence[Instance]) -> str:
    """Pairs "i-j" of orders (1 = front) with i before j, of instances whose amodal masks meet."""
    order = {instance.id: instance.depth + 1 for instance in instances}
    return ",".join(f"{order[front]}-{order[one.id]}" for one in instances for front in one.occluders)


def cocoa_content(info: dict[str, Any], truths: Sequence[ImageTruth]) -> dict[str, Any]:
    """COCOA as its authors publish it: one annotation an image, with `regions` in the order of depth."""
    return {
        "info": info,
        "images": [truth.image for truth in truths],
        "annotations": [
            {
                "id": truth.image["id"],
                "image_id": truth.image["id"],
                "url": truth.image["file_name"],
                "author": "generated",
                "size": len(truth.instances),
                "regions": [_region(instance) for instance in truth.instances],
                "depth_constraint": _depth_constraint(truth.instances),
            }
            for truth in truths
        ],
    }
