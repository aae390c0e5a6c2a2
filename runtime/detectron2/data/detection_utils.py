"""Reading images, and turning annotations into the `Instances` that models train on."""

import logging
import os
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from PIL import Image

from detectron2._left_out import left_out_function
from detectron2.structures import (
    BitMasks,
    Boxes,
    BoxMode,
    Instances,
    Keypoints,
    PolygonMasks,
    polygons_to_bitmask,
)
from detectron2.utils.file_io import PathManager

from . import transforms as T
from .catalog import MetadataCatalog

__all__ = [
    "SizeMismatchError",
    "annotations_to_instances",
    "annotations_to_instances_rotated",
    "build_augmentation",
    "build_transform_gen",
    "check_image_size",
    "convert_image_to_rgb",
    "create_keypoint_hflip_indices",
    "filter_empty_instances",
    "read_image",
    "transform_instance_annotations",
    "transform_proposals",
]

logger = logging.getLogger(__name__)

transform_proposals = left_out_function("transform_proposals", "precomputed proposals")
annotations_to_instances_rotated = left_out_function("annotations_to_instances_rotated", "rotated boxes")
get_fed_loss_cls_weights = left_out_function("get_fed_loss_cls_weights", "the federated loss of LVIS")


class SizeMismatchError(ValueError):
    """An image has another width or height than its record says."""


# ITU-R BT.601, analogue YUV.
_RGB_TO_YUV = np.array([[0.299, 0.587, 0.114], [-0.14713, -0.28886, 0.436], [0.615, -0.51499, -0.10001]])
_YUV_TO_RGB = np.array([[1.0, 0.0, 1.13983], [1.0, -0.39465, -0.58060], [1.0, 2.03211, 0.0]])

_EXIF_ORIENTATION_TAG = 274
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def convert_PIL_to_numpy(image: Image.Image, format: str | None) -> np.ndarray:
    """A PIL image as an (H, W, C) array of the given format; see `read_image`. None keeps the image's own mode."""
    if format is None:
        return np.asarray(image)
    if format == "BGR":
        # Reversed while unpacking: a contiguous array, unlike the view [:, :, ::-1], which is slow to read.
        pixels = image.convert("RGB").tobytes("raw", "BGR")
        return np.frombuffer(pixels, np.uint8).reshape(image.height, image.width, 3)
    if format == "YUV-BT.601":
        return np.dot(np.asarray(image.convert("RGB")) / 255.0, _RGB_TO_YUV.T)
    array = np.asarray(image.convert(format))
    return array[:, :, None] if format == "L" else array


def convert_image_to_rgb(image: np.ndarray | torch.Tensor, format: str) -> np.ndarray:
    """An (H, W, C) image of the given format, as `read_image` makes it, as (H, W, 3) RGB in [0, 255]: float for
    "YUV-BT.601", the input's type for "BGR", uint8 for all others.
    """
    if isinstance(image, torch.Tensor):
        image = image.cpu().numpy()
    if format == "BGR":
        return image[:, :, [2, 1, 0]]
    if format == "YUV-BT.601":
        return np.dot(image, _YUV_TO_RGB.T) * 255.0
    image = image.astype(np.uint8)
    if format == "L":
        return np.repeat(image[:, :, :1], 3, axis=2)
    if format == "RGB":
        return image
    height, width = image.shape[:2]
    return np.asarray(Image.frombytes(format, (width, height), image.tobytes()).convert("RGB"))


def _apply_exif_orientation(image: Image.Image) -> Image.Image:
    """The image as a viewer shows it; unchanged where its EXIF data have no orientation or cannot be read."""
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION_TAG)
    except Exception:  # EXIF blocks are broken in many ways, and none of them should lose the image
        return image
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def read_image(file_name: str | os.PathLike, format: str | None = None) -> np.ndarray:
    """Read an image file, upright according to its EXIF orientation.

    Args:
        file_name: a path that the `PathManager` knows how to open.
        format: a PIL mode such as "RGB" or "L", or "BGR" or "YUV-BT.601". None keeps the mode of the file.

    Returns:
        (H, W, C) array, C = 1 for "L": uint8 in [0, 255]; for "YUV-BT.601" float with Y in [0, 1].

    Raises:
        FileNotFoundError: there is no such file.
        OSError: the file is no image, truncated or damaged.
        ValueError: the image cannot be converted to `format`. All of them name the file.
    """
    name = os.fspath(file_name)
    with PathManager.open(name, "rb") as f:
        try:
            return convert_PIL_to_numpy(_apply_exif_orientation(Image.open(f)), format)
        except ValueError as e:
            raise ValueError(f"cannot read the image '{name}' in the format {format!r}: {e}") from e
        except (OSError, SyntaxError, struct.error, zlib.error, Image.DecompressionBombError) as e:
            size = f"{os.path.getsize(name)} bytes" if os.path.isfile(name) else "not a local file"
            raise OSError(f"cannot read the image '{name}' ({size}); is it complete? {e}") from e


def check_image_size(dataset_dict: dict[str, Any], image: np.ndarray) -> None:
    """Compare the size of an (H, W, C) image with "width" and "height" of its record, and fill in those that are
    missing. SizeMismatchError when they differ.
    """
    height, width = image.shape[:2]
    expected = dataset_dict.get("width", width), dataset_dict.get("height", height)
    if expected != (width, height):
        which = f"the image {dataset_dict['file_name']}" if "file_name" in dataset_dict else "the image"
        raise SizeMismatchError(
            f"{which} has width x height {width} x {height}, but its record says {expected[0]} x {expected[1]}. "
            "Correct the annotation file, or give it the image that it was made for."
        )
    dataset_dict.setdefault("width", width)
    dataset_dict.setdefault("height", height)


def get_bbox(annotation: dict[str, Any]):
    """The box of an annotation as xyxy absolute pixels."""
    return BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)


def transform_instance_annotations(
    annotation: dict[str, Any],
    transforms: T.Transform | Sequence[T.Transform],
    image_size: tuple[int, int],
    *,
    keypoint_hflip_indices: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Apply transforms to the box, the segmentation and the keypoints of one instance, in place.

    Args:
        annotation: with "bbox" and "bbox_mode"; "segmentation" (list of polygons, or COCO RLE dict) and
            "keypoints" are optional.
        transforms: one or several.
        image_size: (h, w) of the transformed image. Boxes are clipped to it.
        keypoint_hflip_indices: see `create_keypoint_hflip_indices`.

    Returns:
        the same dict: box in xyxy absolute pixels, polygons as a list of flat arrays, RLE as an (h, w) mask.
    """
    if isinstance(transforms, (list, tuple)):
        transforms = T.TransformList(transforms)
    height, width = image_size
    box = transforms.apply_box(np.array([get_bbox(annotation)]))[0].clip(min=0)
    annotation["bbox"] = np.minimum(box, [width, height, width, height])
    annotation["bbox_mode"] = BoxMode.XYXY_ABS

    if "segmentation" in annotation:
        annotation["segmentation"] = _transform_segmentation(annotation["segmentation"], transforms, (height, width))
    if "keypoints" in annotation:
        annotation["keypoints"] = transform_keypoint_annotations(
            annotation["keypoints"], transforms, image_size, keypoint_hflip_indices
        )
    return annotation


def _transform_segmentation(
    segmentation: list | dict, transforms: T.Transform, image_size: tuple[int, int]
) -> list[np.ndarray] | np.ndarray:
    if isinstance(segmentation, list):
        points = [np.asarray(polygon).reshape(-1, 2) for polygon in segmentation]
        return [polygon.reshape(-1) for polygon in transforms.apply_polygons(points)]
    if not isinstance(segmentation, dict):
        raise ValueError(
            f"cannot transform a segmentation of type {type(segmentation)}; it must be a list of polygons or a "
            "COCO RLE dict"
        )
    mask = transforms.apply_segmentation(mask_util.decode(segmentation))
    if tuple(mask.shape[:2]) != image_size:
        raise ValueError(
            f"an RLE of height x width {tuple(segmentation['size'])} becomes a mask of {tuple(mask.shape[:2])}, but "
            f"the transformed image has {image_size}: the RLE was made for an image of another size"
        )
    return mask


def transform_keypoint_annotations(
    keypoints: Sequence[float],
    transforms: T.TransformList,
    image_size: tuple[int, int],
    keypoint_hflip_indices: Sequence[int] | None = None,
) -> np.ndarray:
    """Transform the keypoints of one instance. Points that leave the image become (0, 0, 0), that is, not labelled.

    Args:
        keypoints: N x 3 numbers, flat or not: x, y in absolute pixels and visibility.
        transforms: what was applied to the image.
        image_size: (h, w) of the transformed image.
        keypoint_hflip_indices: the order of the points after a horizontal flip; needed where one was applied.

    Returns:
        (N, 3) float64.
    """
    points = np.asarray(keypoints, dtype="float64").reshape(-1, 3)
    points[:, :2] = transforms.apply_coords(points[:, :2])
    outside = (points[:, :2] < 0) | (points[:, :2] > image_size[::-1])
    points[outside.any(axis=1), 2] = 0

    flips = sum(isinstance(t, T.HFlipTransform) for t in transforms.transforms)
    if flips % 2 == 1:
        if keypoint_hflip_indices is None:
            raise ValueError("the image is flipped, but no keypoint_hflip_indices are given to flip its keypoints")
        if len(points) != len(keypoint_hflip_indices):
            raise ValueError(f"the instance has {len(points)} keypoints, the metadata {len(keypoint_hflip_indices)}")
        points = points[np.asarray(keypoint_hflip_indices, dtype=np.int64)]
    points[points[:, 2] == 0] = 0
    return points


def annotations_to_instances(
    annos: list[dict[str, Any]], image_size: tuple[int, int], mask_format: str = "polygon"
) -> Instances:
    """Make the training target of one image.

    Args:
        annos: the transformed annotations of its instances; may be empty.
        image_size: (h, w).
        mask_format: "polygon" for `PolygonMasks`, which every segmentation must then be, or "bitmask" for
            `BitMasks` from polygons, RLE dicts or (h, w) arrays.

    Returns:
        Instances with gt_boxes, gt_classes (int64) and, if the first annotation has a segmentation, gt_masks.
    """
    target = Instances(image_size)
    target.gt_boxes = Boxes(np.stack([get_bbox(a) for a in annos]) if annos else np.zeros((0, 4)))
    target.gt_classes = torch.tensor([int(a["category_id"]) for a in annos], dtype=torch.int64)

    if annos and "segmentation" in annos[0]:
        segmentations = [a["segmentation"] for a in annos]
        if mask_format == "polygon":
            try:
                target.gt_masks = PolygonMasks(segmentations)
            except ValueError as e:
                raise ValueError(
                    "mask_format='polygon' does not fit these annotations; use 'bitmask' (INPUT.MASK_FORMAT, or "
                    f"instance_mask_format of the DatasetMapper) for RLE masks. {e}"
                ) from e
        else:
            assert mask_format == "bitmask", f"mask_format is 'polygon' or 'bitmask', not {mask_format!r}"
            masks = np.stack([_to_bitmap(s, image_size) for s in segmentations])
            target.gt_masks = BitMasks(torch.from_numpy(masks))

    if annos and "keypoints" in annos[0]:
        target.gt_keypoints = Keypoints([a.get("keypoints", []) for a in annos])
    return target


def _to_bitmap(segmentation: list | dict | np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    if isinstance(segmentation, list):
        return polygons_to_bitmask(segmentation, *image_size)
    if isinstance(segmentation, dict):
        return mask_util.decode(segmentation)
    if not isinstance(segmentation, np.ndarray):
        raise ValueError(
            f"cannot make a mask of a segmentation of type {type(segmentation)}; it must be a list of polygons, a COCO "
            "RLE dict or a two-dimensional array"
        )
    assert segmentation.ndim == 2, f"a mask has two dimensions, got the shape {segmentation.shape}"
    return segmentation


def filter_empty_instances(
    instances: Instances,
    by_box: bool = True,
    by_mask: bool = True,
    box_threshold: float = 1e-5,
    return_mask: bool = False,
):
    """Leave out the instances without area.

    Args:
        instances: with gt_boxes and perhaps gt_masks.
        by_box: leave out those whose box is not wider and higher than `box_threshold` pixels.
        by_mask: leave out those whose mask is empty.
        box_threshold: pixels.
        return_mask: return also which ones were kept.

    Returns:
        the remaining Instances; with `return_mask` also an (N,) bool tensor, true for those kept.
    """
    assert by_box or by_mask, "by_box and by_mask are both false: nothing to filter by"
    criteria = [instances.gt_boxes.nonempty(threshold=box_threshold)] if by_box else []
    if by_mask and instances.has("gt_masks"):
        criteria.append(instances.gt_masks.nonempty())
    if not criteria:
        criteria = [torch.ones(len(instances), dtype=torch.bool)]
    keep = torch.stack(criteria).all(dim=0)
    return (instances[keep], keep) if return_mask else instances[keep]


def create_keypoint_hflip_indices(dataset_names: str | list[str]) -> list[int]:
    """For each keypoint of these data sets the index of the one that takes its place in a mirrored image, from the
    metadata "keypoint_names" and "keypoint_flip_map" (pairs of names).
    """
    names_of_sets = [dataset_names] if isinstance(dataset_names, str) else dataset_names
    for key in ("keypoint_names", "keypoint_flip_map"):
        check_metadata_consistency(key, names_of_sets)
    metadata = MetadataCatalog.get(names_of_sets[0])
    partner = {a: b for pair in metadata.keypoint_flip_map for a, b in (pair, pair[::-1])}
    names = list(metadata.keypoint_names)
    return [names.index(partner.get(name, name)) for name in names]


def gen_crop_transform_with_instance(
    crop_size: tuple[int, int], image_size: tuple[int, int], instance: dict[str, Any]
) -> T.CropTransform:
    """A random crop that contains the centre of an instance's box.

    Args:
        crop_size: (h, w) in pixels.
        image_size: (h, w).
        instance: annotation with "bbox" and "bbox_mode".
    """
    x0, y0, x1, y1 = get_bbox(instance)
    center = ((y0 + y1) * 0.5, (x0 + x1) * 0.5)
    assert all(size >= c for size, c in zip(image_size, center, strict=True)), (
        f"the centre (y, x) = {center} of the box lies outside of the image of {image_size}"
    )
    assert all(size >= c for size, c in zip(image_size, crop_size, strict=True)), (
        f"the crop of {tuple(crop_size)} is larger than the image of {image_size}"
    )
    origin = []
    for size, crop, c in zip(image_size, crop_size, center, strict=True):
        first = max(int(np.floor(c)) - crop, 0)
        last = min(max(size - crop, 0), int(np.ceil(c)))
        origin.append(np.random.randint(first, last + 1))
    top, left = origin
    return T.CropTransform(left, top, crop_size[1], crop_size[0])


def check_metadata_consistency(key: str, dataset_names: Sequence[str]) -> None:
    """Check that several data sets agree on an entry of their metadata.

    Raises:
        AttributeError: one of them does not have it.
        ValueError: two of them differ.
    """
    values = {name: getattr(MetadataCatalog.get(name), key) for name in dataset_names}
    for name, value in values.items():
        if value != values[dataset_names[0]]:
            logger.error(f"metadata '{key}' of '{dataset_names[0]}': {values[dataset_names[0]]}")
            logger.error(f"metadata '{key}' of '{name}': {value}")
            raise ValueError(f"the data sets '{dataset_names[0]}' and '{name}' have different metadata '{key}'")


def build_augmentation(cfg, is_train: bool) -> list[T.Augmentation]:
    """The default augmentations of a yacs config: resizing of the shorter edge and, in training, a random flip."""
    if not is_train:
        return [T.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, "choice")]
    augs = [T.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING)]
    direction = cfg.INPUT.RANDOM_FLIP
    if direction != "none":
        augs.append(T.RandomFlip(horizontal=direction == "horizontal", vertical=direction == "vertical"))
    return augs


# The earlier name, which projects still use.
build_transform_gen = build_augmentation
