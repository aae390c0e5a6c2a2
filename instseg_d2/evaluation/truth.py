"""The ground truth of a data set as evaluations look at it: image by image, with how hidden each instance is."""

import contextlib
import io
import os
from collections.abc import Iterable
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.data import detection_utils as utils
from detectron2.utils.file_io import PathManager
from pycocotools import mask as mask_util
from pycocotools.coco import COCO

from instseg_d2.data import DatasetError, category_names, prepare_dataset

Annotation = dict[str, Any]


def encode(mask: Any, height: int, width: int) -> dict[str, Any]:
    """Compressed run lengths of a mask in any of COCO's forms: polygons, plain or compressed run lengths."""
    if isinstance(mask, list):
        return mask_util.merge(mask_util.frPyObjects(mask, height, width))
    return mask_util.frPyObjects(mask, height, width) if isinstance(mask["counts"], list) else mask


def covered_share(visible: dict[str, Any], amodal: dict[str, Any]) -> float:
    """Share of the whole object (`amodal`) outside of what is seen of it, in [0, 1]; 0 for an object without pixels.

    Args:
        visible: run lengths.
        amodal: run lengths of the same image.
    """
    whole = float(mask_util.area(amodal))
    seen = float(mask_util.area(mask_util.merge([visible, amodal], intersect=True)))
    return 1 - seen / whole if whole else 0.0


class GroundTruth:
    """What the annotation file of a registered data set says about its images. Annotations are dicts as there.

    Args:
        dataset_name: a registered data set; its metadata name the annotation file (`json_file`).
        coco: the file, if it is read already.

    Raises:
        DatasetError: the data set has no annotation file in COCO's format.
    """

    def __init__(self, dataset_name: str, coco: COCO | None = None):
        self.dataset_name = dataset_name
        self.coco = _read(dataset_name) if coco is None else coco

    @property
    def json_file(self) -> str:
        """Where the annotations come from."""
        return MetadataCatalog.get(self.dataset_name).json_file

    def category_ids(self, categories: str | Iterable[str] | None) -> set[int]:
        """Ids of a split's categories (`instseg_d2.data.category_splits`), or of named ones; None for all.

        Raises:
            DatasetError: there is no such split or category.
        """
        names = {key: self.coco.cats[key]["name"] for key in sorted(self.coco.cats)}
        if categories is None:
            return set(names)
        chosen = category_names(categories, list(names.values()))
        return {key for key, name in names.items() if name in chosen}

    def image(self, image_id: Any) -> "ImageTruth":
        """The image with this id.

        Raises:
            DatasetError: the file has no such image.
        """
        if image_id not in self.coco.imgs:
            raise DatasetError(f"{self.json_file} has no image {image_id!r}: is it the file of the images in use?")
        folder = MetadataCatalog.get(self.dataset_name).get("image_root", "")
        return ImageTruth(self.json_file, self.coco.imgs[image_id], self.coco.imgToAnns.get(image_id, []), folder)


def _read(dataset_name: str) -> COCO:
    prepare_dataset(dataset_name)
    json_file = MetadataCatalog.get(dataset_name).get("json_file")
    if json_file is None:
        raise DatasetError(
            f"data set '{dataset_name}' has no annotation file in COCO's format: register it with register_coco, or "
            f"set MetadataCatalog.get('{dataset_name}').json_file"
        )
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(PathManager.get_local_path(json_file))


class ImageTruth:
    """One image: what a predicate on instances can look at beside the annotation itself.

    Attributes:
        id: of the image.
        height, width: in pixels.
        annotations: all of the image, crowd regions too.
        file: where its pixels are.
    """

    def __init__(self, json_file: str, image: dict[str, Any], annotations: list[Annotation], folder: str = ""):
        self.id = image["id"]
        self.height, self.width = int(image["height"]), int(image["width"])
        self.annotations = annotations
        self.file = os.path.join(folder, image.get("file_name", ""))
        self._json_file = json_file

    @property
    def objects(self) -> list[Annotation]:
        """Annotations that are no crowd regions."""
        return [annotation for annotation in self.annotations if not annotation.get("iscrowd", 0)]

    def mask(self, annotation: Annotation, key: str = "segmentation") -> dict[str, Any]:
        """Run lengths of one of the masks of an annotation.

        Raises:
            DatasetError: it has no such mask.
        """
        mask = annotation.get(key)
        if not mask:
            raise DatasetError(
                f"{self._where(annotation)} has no '{key}', which a subset of instances or the masks' evaluation looks "
                "at: leave these subsets out of the evaluator (instance_subsets), or evaluate on another data set"
            )
        return encode(mask, self.height, self.width)

    def covered(self, annotation: Annotation) -> float:
        """Hidden share of the amodal area of an instance, in [0, 1].

        It is the entry `covered`. Without that it is computed from two masks: `amodal_segmentation` against
        `visible_segmentation`, where `segmentation` takes the place of the one that is missing.

        Raises:
            DatasetError: there is neither the entry nor a second mask, or the entry is outside [0, 1].
        """
        share = annotation.get("covered")
        if share is None:
            share = self._covered_by_masks(annotation)
        if not 0 <= share <= 1:
            raise DatasetError(f"{self._where(annotation)}: 'covered' is {share}, but it must be in [0, 1]")
        return float(share)

    def _covered_by_masks(self, annotation: Annotation) -> float:
        keys = {
            kind: f"{kind}_segmentation" for kind in ("visible", "amodal") if annotation.get(f"{kind}_segmentation")
        }
        if not keys:
            raise DatasetError(
                f"{self._where(annotation)} does not say how much of the object is hidden: occlusion needs 'covered' "
                "(hidden share of the whole object, 0 to 1), or 'amodal_segmentation' or 'visible_segmentation' "
                "beside 'segmentation'. Add one of them to the file, or evaluate without occlusion bins"
            )
        visible, amodal = (self.mask(annotation, keys.get(kind, "segmentation")) for kind in ("visible", "amodal"))
        return covered_share(visible, amodal)

    @cached_property
    def overlaps(self) -> dict[Any, float]:
        """How much of the box of each object another object's mask fills, by annotation id.

        O_i = max over j != i of |b_i and s_j| / |b_i| in pixels, with b the boxes and s the masks of the image's
        objects of all categories (Teacher-Student mask heads, Eq. 1). Crowd regions take no part.
        """
        objects = self.objects
        if len(objects) < 2:
            return {annotation["id"]: 0.0 for annotation in objects}
        corners = np.array([annotation["bbox"] for annotation in objects], dtype=np.float64)
        boxes = mask_util.frPyObjects(corners, self.height, self.width)
        # With the crowd flag, pycocotools divides the intersection by the area of the first.
        shares = mask_util.iou(boxes, [self.mask(annotation) for annotation in objects], [1] * len(objects))
        np.fill_diagonal(shares, 0)
        return {annotation["id"]: float(share) for annotation, share in zip(objects, shares.max(axis=1), strict=True)}

    @cached_property
    def neighbors(self) -> dict[Any, list[Annotation]]:
        """The objects that touch each object, by annotation id: whose masks have pixels in or next to its mask."""
        objects = self.objects
        masks = [self.mask(annotation) for annotation in objects]
        if not masks:
            return {}
        # A pixel more on every side, corners included.
        around = np.ones((3, 3), np.uint8)
        grown = [mask_util.encode(np.asfortranarray(cv2.dilate(mask_util.decode(mask), around))) for mask in masks]
        touch = mask_util.iou(grown, masks, [0] * len(masks)) > 0
        np.fill_diagonal(touch, False)
        return {
            annotation["id"]: [objects[i] for i in row.nonzero()[0]]
            for annotation, row in zip(objects, touch, strict=True)
        }

    @cached_property
    def colors(self) -> dict[Any, np.ndarray]:
        """Mean colour of the pixels of each object, (3,) float32 in CIE L*a*b*, by annotation id.

        Raises:
            DatasetError: the image cannot be read, or has another size than the file says.
        """
        pixels = utils.read_image(self.file, "RGB").astype(np.float32) / 255
        if pixels.shape[:2] != (self.height, self.width):
            raise DatasetError(
                f"{self.file} is {pixels.shape[:2]}, but {self._json_file} says {self.height, self.width}"
            )
        lab = cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB)
        masks = {annotation["id"]: mask_util.decode(self.mask(annotation)).astype(bool) for annotation in self.objects}
        return {key: lab[mask].mean(axis=0) if mask.any() else np.full(3, np.nan) for key, mask in masks.items()}

    def _where(self, annotation: Annotation) -> str:
        return f"{self._json_file}: annotation {annotation['id']} of image {self.id!r}"
