"""From a record of detectron2's data set format to the input of a model."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from detectron2.structures import Instances

from . import fields
from .errors import SampleError
from .indexed_masks import share_bitmaps
from .occluders import OccluderRule
from .shared_map import SharedBoxes, SharedMap

_MASK_FORMATS = ("bitmask", "polygon")


class InstanceMapper:
    """Reads one image and makes tensors of it and of its annotations.

    The output is that of detectron2's `DatasetMapper`: the record without `annotations`, plus `image`, a uint8 tensor
    (C, H, W), and in training `instances` with `gt_boxes` (xyxy, absolute pixels of the augmented image), `gt_classes`,
    and `gt_masks` when the annotations have masks. Polygons and run-length masks may be mixed. Crowd regions and
    instances that an augmentation has emptied are left out; an image without any instance stays.

    Further truth for `instances`, by name in `extra_fields`; every image then has it, one without instances too:

    - `gt_has_mask` (N,) bool: whether a loss may look at the mask. Comes by itself for records of a supervision that
      hides masks (`get_supervised_dataset_dicts`). Where it is given, an annotation without a mask, or with
      `has_mask` False, keeps its box: its mask is the filled box, and `recompute_boxes` lets its box be.
    - `gt_occluders` BitMasks: the other instances in the box, by `occluder_rule` from `gt_masks` and `gt_boxes` of the
      augmented image, so that hidden masks add nothing; from the polygons of `bg_object_segmentation`, as BCNet's
      authors publish them, where an annotation has these (not with `front_only`).
    - `gt_amodal_masks` BitMasks: the whole objects, from `amodal_segmentation`; the filled box of a hidden one.
    - `gt_ids` (N,) int64: identity in a video, from `instance_id`.
    - `gt_seen` `SharedMap` (1, H, W) bool: where any mask lies that may be seen, one map for all instances.
    - `gt_image` `SharedMap` (C, H, W) uint8: the augmented image itself, for losses that look at colours.

    Bitmaps are `IndexedBitMasks`: regions of the same object share them.

    Annotations that a supervision has marked as `ignored` (`FewShot`) are no instances. Where there are any in the
    augmented image, `instances` has `gt_ignored` `SharedBoxes` (B, 4): their boxes, xyxy pixels, cut to the image.

    With `image_box`, samples of training have an entry of that name: the edges (x0, y0, x1, y1), floats, that the whole
    original image has in pixels of the augmented one. They lie beyond it where a crop has cut the image; what is not
    between them is padding.

    Args:
        is_train: with annotations, or the image alone.
        augmentations: of `detectron2.data.transforms`, applied in this order.
        image_format: a PIL mode, or "BGR".
        use_instance_mask: give `gt_masks` when the annotations of an image have them.
        instance_mask_format: "bitmask", or "polygon", which takes polygons alone.
        recompute_boxes: take boxes from the augmented masks instead of the augmented boxes, as cropping asks for.
        num_classes: when given, a class index outside [0, num_classes) is an error.
        extra_fields: of `gt_has_mask`, `gt_occluders`, `gt_amodal_masks`, `gt_ids`, `gt_seen`, `gt_image`.
        occluder_rule: which instances are occluders; BCNet's rule by default.
        image_box: say where the image lies, for losses that look at colors; augmentations must keep it upright.

    Raises:
        SampleError: a record cannot be mapped; the message names the file, the image id and the annotation id.
    """

    def __init__(
        self,
        *,
        is_train: bool,
        augmentations: Sequence[T.Augmentation | T.Transform],
        image_format: str = "BGR",
        use_instance_mask: bool = True,
        instance_mask_format: str = "bitmask",
        recompute_boxes: bool = False,
        num_classes: int | None = None,
        extra_fields: Sequence[str] = (),
        occluder_rule: OccluderRule | None = None,
        image_box: bool = False,
    ):
        if instance_mask_format not in _MASK_FORMATS:
            raise ValueError(f"instance_mask_format='{instance_mask_format}': must be one of {_MASK_FORMATS}")
        if recompute_boxes and not use_instance_mask:
            raise ValueError("recompute_boxes takes the boxes from masks: it needs use_instance_mask=True")
        self.extra_fields = fields.check_fields(extra_fields, use_instance_mask, instance_mask_format)
        self.is_train = is_train
        self.augmentations = T.AugmentationList(list(augmentations))
        self.image_format = image_format
        self.use_instance_mask = use_instance_mask
        self.instance_mask_format = instance_mask_format
        self.recompute_boxes = recompute_boxes
        self.num_classes = num_classes
        self.occluder_rule = occluder_rule or OccluderRule()
        self.image_box = image_box

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Map one record, which stays as it is."""
        sample = {key: value for key, value in record.items() if key != "annotations"}
        with _named(record):
            image = self.read_image(sample)
            height_width = image.shape[:2]
            augmented = T.AugInput(image)
            transforms = self.augmentations(augmented)
            image = augmented.image
            sample["image"] = torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))
            if self.is_train and self.image_box:
                height, width = height_width
                edges = transforms.apply_box(np.array([[0.0, 0.0, width, height]]))[0]
                sample["image_box"] = tuple(edges.tolist())
            if self.is_train and "annotations" in record:
                annotations = self.read_annotations(record, height_width)
                instances = self.build_instances(record, annotations, transforms, image.shape[:2])
                if "gt_image" in self.extra_fields:
                    instances.gt_image = SharedMap(sample["image"], len(instances))
                ignored = fields.ignored_boxes(record["annotations"], transforms, image.shape[:2])
                if len(ignored):
                    instances.gt_ignored = SharedBoxes(ignored, len(instances))
                sample["instances"] = share_bitmaps(_without_empty(instances))
        return sample

    def read_image(self, sample: dict[str, Any]) -> np.ndarray:
        """The image (H, W, C) uint8 of a record; fills in `height` and `width` where the record lacks them."""
        image = detection_utils.read_image(sample["file_name"], format=self.image_format)
        detection_utils.check_image_size(sample, image)
        return image

    def read_annotations(self, record: dict[str, Any], height_width: tuple[int, int]) -> list[dict[str, Any]]:
        """Checked copies of the annotations to train on: no crowd regions, and no masks where they are not used.

        Hidden masks are not looked at, so they may be anything.
        """
        annotations = []
        for index, annotation in enumerate(record["annotations"]):
            if not annotation.get("iscrowd", 0):
                with _named(record, annotation.get("id", f"number {index}, which has no id,")):
                    annotations.append(self._read_annotation(annotation, height_width))
        masked = sum("segmentation" in annotation for annotation in annotations)
        if self._gives_has_mask(record):
            return annotations
        if 0 < masked < len(annotations):
            raise ValueError(
                f"{masked} of {len(annotations)} annotations have a mask; give all of them one, train on boxes "
                "alone with use_instance_mask=False, or tell the losses with extra_fields=['gt_has_mask']"
            )
        if annotations and not masked and "gt_occluders" in self.extra_fields:
            raise ValueError("no annotation has a mask, which gt_occluders is made from")
        return annotations

    def _gives_has_mask(self, record: dict[str, Any]) -> bool:
        hides_masks = self.use_instance_mask and record.get("partial_masks", False)
        return hides_masks or "gt_has_mask" in self.extra_fields

    def _read_annotation(self, annotation: dict[str, Any], height_width: tuple[int, int]) -> dict[str, Any]:
        box = np.asarray(annotation["bbox"], dtype=np.float64)
        if box.shape != (4,) or not np.isfinite(box).all():
            raise ValueError(f"'bbox' must be four finite numbers, not {annotation['bbox']}")
        category = annotation["category_id"]
        if self.num_classes is not None and not 0 <= category < self.num_classes:
            raise ValueError(f"class index {category} is outside [0, {self.num_classes}), the range of num_classes")
        result = {key: value for key, value in annotation.items() if key not in ("segmentation", "keypoints")}
        # detectron2 rounds boxes of whole numbers down when it resizes them.
        result["bbox"] = box.tolist()
        visible = bool(self.use_instance_mask and annotation.get("has_mask", True) and annotation.get("segmentation"))
        if visible:
            result["segmentation"] = fields.read_mask(
                annotation["segmentation"], height_width, self.instance_mask_format
            )
        result["extra"] = fields.read_entries(
            annotation, self.extra_fields, height_width, visible=visible, rule=self.occluder_rule
        )
        return result

    def build_instances(
        self,
        record: dict[str, Any],
        annotations: list[dict[str, Any]],
        transforms: T.TransformList,
        height_width: tuple[int, int],
    ) -> Instances:
        """Ground truth of the augmented image: one instance per annotation, in their order.

        Empty instances are dropped only after this, so a subclass can extend the result by `gt_*` fields that run
        parallel to `annotations`.

        Args:
            record: what is mapped.
            annotations: from `read_annotations`; boxes and masks are replaced by the transformed ones, and hidden
                masks filled in.
            transforms: what was done to the image.
            height_width: of the augmented image.
        """
        for annotation in annotations:
            with _named(record, annotation.get("id", "without id")):
                detection_utils.transform_instance_annotations(annotation, transforms, height_width)
        has_mask = torch.tensor(["segmentation" in annotation for annotation in annotations], dtype=torch.bool)
        if self._gives_has_mask(record):
            fields.fill_hidden(annotations, height_width, self.instance_mask_format)
        instances = detection_utils.annotations_to_instances(
            annotations, height_width, mask_format=self.instance_mask_format
        )
        if self.recompute_boxes and instances.has("gt_masks"):
            instances.gt_boxes = fields.boxes_from_masks(instances, has_mask)
        if self._gives_has_mask(record):
            instances.gt_has_mask = has_mask
        entries = [annotation["extra"] for annotation in annotations]
        if "gt_occluders" in self.extra_fields:
            instances.gt_occluders = fields.occluders(
                entries, instances, transforms, has_mask=has_mask, rule=self.occluder_rule
            )
        if "gt_amodal_masks" in self.extra_fields:
            instances.gt_amodal_masks = fields.amodal_masks(entries, instances, transforms)
        if "gt_ids" in self.extra_fields:
            instances.gt_ids = torch.tensor([entry["instance_id"] for entry in entries], dtype=torch.int64)
        if "gt_seen" in self.extra_fields:
            instances.gt_seen = fields.seen_area(instances, has_mask)
        return instances


def _without_empty(instances: Instances) -> Instances:
    """What `filter_empty_instances` keeps, without a copy of all masks where nothing is empty, the usual case."""
    keep = instances.gt_boxes.nonempty(threshold=1e-5)
    if instances.has("gt_masks"):
        keep &= instances.gt_masks.nonempty()
    return instances if keep.all() else instances[keep]


@contextmanager
def _named(record: dict[str, Any], annotation: Any = None) -> Iterator[None]:
    """Turn any error inside into a `SampleError` that says where: the image, and the id of the annotation, if given."""
    try:
        yield
    except SampleError:
        raise
    except Exception as error:
        where = f"image {record.get('file_name')} (id {record.get('image_id')!r})"
        if annotation is not None:
            where = f"annotation {annotation} of {where}"
        # A missing key and an assertion say too little without their type.
        cause = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
        advice = (
            "; restore the file, or take the image out of the annotation file" if isinstance(error, OSError) else ""
        )
        raise SampleError(f"{where}: {cause}{advice}") from error
