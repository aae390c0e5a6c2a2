"""COCO's annotation format: reading it into records, writing records in it, registering files in it."""

import contextlib
import datetime
import gc
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from typing import Any, NoReturn

import numpy as np
import pycocotools.mask as mask_util
from iopath.common.file_io import file_lock

from detectron2._left_out import left_out_function
from detectron2.structures import Boxes, BoxMode, PolygonMasks
from detectron2.utils.file_io import PathManager

from ..catalog import DatasetCatalog, MetadataCatalog

__all__ = ["load_coco_json", "load_sem_seg", "convert_to_coco_json", "register_coco_instances"]

logger = logging.getLogger(__name__)

load_sem_seg = left_out_function("load_sem_seg", "semantic segmentation")


@contextlib.contextmanager
def _garbage_collector_paused() -> Iterator[None]:
    """Millions of new objects and no cycles: the collector would scan them again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _read_json(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as f:
            content = json.load(f)
    except FileNotFoundError as e:
        raise FileNotFoundError(
            f"the annotation file '{path}' does not exist. Builtin data sets are looked for below "
            "$DETECTRON2_DATASETS (by default ./datasets); otherwise correct the path the set is registered with."
        ) from e
    except ValueError as e:
        raise ValueError(
            f"the annotation file '{path}' ({os.path.getsize(path)} bytes) is not valid JSON: {e}. "
            "Is the file complete?"
        ) from e
    if not isinstance(content, dict):
        raise ValueError(f"the annotation file '{path}' must hold a JSON object, but holds a {type(content).__name__}")
    return content


def _section(content: dict[str, Any], key: str, path: str) -> list[dict[str, Any]]:
    if not isinstance(content.get(key), list):
        raise ValueError(
            f"the annotation file '{path}' has no list '{key}', so it is not in COCO's format; "
            f"it has: {', '.join(content)}"
        )
    return content[key]


def _keep_categories(content: dict[str, Any], path: str, dataset_name: str) -> dict[int, int]:
    """Put the classes of the file into the metadata of the data set. Returns category id -> contiguous index."""
    try:
        names = {category["id"]: category["name"] for category in _section(content, "categories", path)}
    except KeyError as e:
        raise KeyError(f"a category in '{path}' has no {e}; every category needs an 'id' and a 'name'") from e
    if not names:
        raise ValueError(f"the list 'categories' in '{path}' is empty: the data set has no classes")
    ids = sorted(names)
    contiguous = {category_id: index for index, category_id in enumerate(ids)}
    metadata = MetadataCatalog.get(dataset_name)
    metadata.thing_classes = [names[category_id] for category_id in ids]
    # COCO's own ids have gaps, and everyone knows.
    if (ids[0] != 1 or ids[-1] != len(ids)) and "coco" not in dataset_name:
        logger.warning(
            f"the category ids of '{dataset_name}' are not 1, ..., {len(ids)}; they are mapped to "
            f"0, ..., {len(ids) - 1} in ascending order, and predictions are mapped back for evaluation"
        )
    metadata.thing_dataset_id_to_contiguous_id = contiguous
    return contiguous


class _AnnotationReader:
    """Makes detectron2 annotations of those of one COCO file, and remembers which ones it left out."""

    def __init__(self, path: str, categories: dict[int, int] | None, extra_keys: list[str]):
        self.path = path
        self.categories = categories
        self.keys = ("iscrowd", "bbox", "keypoints", "category_id", *extra_keys)
        self.without_polygon: list[str] = []

    def _where(self, image: dict, annotation: dict) -> str:
        return f"annotation {annotation.get('id')} of image {image['id']} ({image.get('file_name')})"

    def _fail(self, image: dict, annotation: dict, problem: str, kind: type[Exception] = ValueError) -> NoReturn:
        raise kind(f"'{self.path}': {self._where(image, annotation)}: {problem}")

    def read(self, image: dict, annotation: dict) -> dict[str, Any] | None:
        """The annotation in detectron2's format; None when its polygons are all invalid."""
        if annotation.get("ignore", 0) != 0:
            self._fail(image, annotation, "the key 'ignore' is not supported; use 'iscrowd' or remove it")
        result = {key: annotation[key] for key in self.keys if key in annotation}
        if "bbox" in result and not (isinstance(result["bbox"], list) and len(result["bbox"]) >= 4):
            self._fail(image, annotation, f"'bbox' must be [x, y, width, height], got {result['bbox']!r}")

        segmentation = annotation.get("segmentation")
        if segmentation:
            is_rle = isinstance(segmentation, dict)
            segmentation = (self._read_rle if is_rle else self._read_polygons)(image, annotation, segmentation)
            if not segmentation:
                self.without_polygon.append(self._where(image, annotation))
                return None
            result["segmentation"] = segmentation

        if annotation.get("keypoints"):
            # From indices of pixels to coordinates: the centre of pixel 0 is at 0.5.
            numbers = annotation["keypoints"]
            result["keypoints"] = [n if i % 3 == 2 else n + 0.5 for i, n in enumerate(numbers)]

        result["bbox_mode"] = BoxMode.XYWH_ABS
        if self.categories is not None:
            category = result.get("category_id")
            if category not in self.categories:
                problem = (
                    f"category_id {category} is not in the 'categories' of the file"
                    if "category_id" in result
                    else "the key 'category_id' is missing"
                )
                self._fail(image, annotation, problem, KeyError)
            result["category_id"] = self.categories[category]
        return result

    def _read_rle(self, image: dict, annotation: dict, rle: dict) -> dict[str, Any]:
        if "size" not in rle or "counts" not in rle:
            self._fail(image, annotation, f"an RLE needs 'size' and 'counts', this one has: {', '.join(rle)}")
        expected = [image["height"], image["width"]]
        if list(rle["size"]) != expected:
            self._fail(
                image,
                annotation,
                f"the RLE has the size (height, width) {rle['size']}, but the image has {expected}",
            )
        counts = rle["counts"]
        if not isinstance(counts, list):
            return rle
        if sum(counts) != expected[0] * expected[1]:
            self._fail(
                image,
                annotation,
                f"the counts of the RLE add up to {sum(counts)} pixels, the image has {expected[0] * expected[1]}",
            )
        return mask_util.frPyObjects(rle, *expected)

    def _read_polygons(self, image: dict, annotation: dict, polygons: list) -> list[list[float]]:
        if not all(isinstance(polygon, list) for polygon in polygons):
            self._fail(image, annotation, "'segmentation' must be an RLE or a list of polygons [[x, y, ...], ...]")
        return [polygon for polygon in polygons if len(polygon) >= 6 and len(polygon) % 2 == 0]


def _images_by_id(content: dict[str, Any], path: str) -> dict[Any, dict[str, Any]]:
    images: dict[Any, dict[str, Any]] = {}
    for position, image in enumerate(_section(content, "images", path)):
        missing = [key for key in ("id", "file_name", "height", "width") if key not in image]
        if missing:
            which = f"image {image['id']}" if "id" in image else f"entry {position} of 'images'"
            raise KeyError(f"'{path}': {which} has no '{missing[0]}'")
        images[image["id"]] = image
    return {image_id: images[image_id] for image_id in sorted(images)}


def _annotations_by_image(content: dict[str, Any], path: str, images: dict) -> dict[Any, list[dict[str, Any]]]:
    """Image id -> its annotations, in the order of the file. Checks that the ids of annotations are unique."""
    annotations = _section(content, "annotations", path) if "annotations" in content else []
    found: dict[Any, list[dict[str, Any]]] = {image_id: [] for image_id in images}
    homeless = []
    owner: dict[Any, Any] = {}
    # The published minival files of COCO 2014 repeat some ids.
    check_unique = "minival" not in path
    for position, annotation in enumerate(annotations):
        try:
            annotation_id, image_id = annotation["id"], annotation["image_id"]
        except KeyError as e:
            raise KeyError(
                f"'{path}': annotation {annotation.get('id')} (entry {position} of 'annotations') has no {e}"
            ) from e
        if image_id not in found:
            homeless.append(annotation)
            continue
        if check_unique and annotation_id in owner:
            raise ValueError(
                f"'{path}': the annotation id {annotation_id} is not unique: images {owner[annotation_id]} "
                f"and {image_id} have it. Number the annotations 1, 2, 3, ..."
            )
        owner[annotation_id] = image_id
        found[image_id].append(annotation)
    if homeless:
        logger.warning(
            f"'{path}': {len(homeless)} of {len(annotations)} annotations belong to images that the file does not "
            f"list, and are left out; the first is annotation {homeless[0]['id']} of image {homeless[0]['image_id']}"
        )
    return found


def load_coco_json(
    json_file: str | os.PathLike,
    image_root: str | os.PathLike,
    dataset_name: str | None = None,
    extra_annotation_keys: list[str] | None = None,
) -> list[dict[str, Any]]:
    """Read an annotation file in COCO's instances format. Images are not opened.

    Args:
        json_file: the annotation file.
        image_root: the folder that its file names are relative to.
        dataset_name: if given, the classes of the file become the metadata `thing_classes` and
            `thing_dataset_id_to_contiguous_id` of this data set, and category ids become indices of
            `thing_classes`. Without it, records keep the ids of the file.
        extra_annotation_keys: more keys of annotations to take over as they are.

    Returns:
        one record per image, by ascending image id: "file_name", "height", "width", "image_id" and "annotations",
        a list of dicts with "bbox" (x, y, width, height in pixels), "bbox_mode", "category_id" and, where the file
        has them, "iscrowd", "segmentation" (polygons or compressed RLE) and "keypoints". Instances whose polygons
        all have less than three points are left out with a warning.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError, KeyError: the file is not valid; the message names the file, the image and the annotation.
    """
    path = PathManager.get_local_path(os.fspath(json_file))
    begin = time.perf_counter()
    with _garbage_collector_paused():
        content = _read_json(path)
        categories = None if dataset_name is None else _keep_categories(content, path, dataset_name)
        images = _images_by_id(content, path)
        found = _annotations_by_image(content, path, images)
        reader = _AnnotationReader(path, categories, extra_annotation_keys or [])
        records = []
        for image_id, image in images.items():
            parsed = (reader.read(image, annotation) for annotation in found[image_id])
            records.append(
                {
                    "file_name": os.path.join(image_root, image["file_name"]),
                    "height": image["height"],
                    "width": image["width"],
                    "image_id": image_id,
                    "annotations": [annotation for annotation in parsed if annotation is not None],
                }
            )
    seconds = time.perf_counter() - begin
    logger.info(f"Loaded {len(records)} images in COCO format from {path} in {seconds:.2f} seconds")
    if reader.without_polygon:
        logger.warning(
            f"'{path}': left out {len(reader.without_polygon)} instances whose segmentation has no polygon of three or "
            f"more points (an even number of coordinates, at least six); the first is {reader.without_polygon[0]}"
        )
    return records


def _annotation_area(segmentation: list | dict | None, box: list[float]) -> float:
    """Area in pixels of the segmentation, or else of a box (x, y, width, height, perhaps an angle)."""
    if segmentation is None:
        if len(box) == 5:
            return float(np.float32(box[2]) * np.float32(box[3]))
        return Boxes([BoxMode.convert(box, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)]).area()[0].item()
    if isinstance(segmentation, list):
        return PolygonMasks([segmentation]).area()[0].item()
    if isinstance(segmentation, dict):
        return mask_util.area(segmentation).item()
    raise TypeError(
        f"COCO's format holds polygons and RLE, not segmentations of type {type(segmentation)}; encode masks with "
        "pycocotools.mask.encode"
    )


def _to_coco_annotation(annotation: dict[str, Any]) -> dict[str, Any]:
    """All of an annotation in COCO's format but its ids."""
    box = annotation["bbox"]
    if isinstance(box, np.ndarray):
        if box.ndim != 1:
            raise ValueError(f"the box of an annotation must be one-dimensional, got the shape {box.shape}")
        box = box.tolist()
    if len(box) not in (4, 5):
        raise ValueError(f"the box of an annotation must have 4 numbers (5 with an angle), got {box}")
    mode = BoxMode.XYWH_ABS if len(box) == 4 else BoxMode.XYWHA_ABS
    box = BoxMode.convert(box, annotation["bbox_mode"], mode)

    segmentation = annotation.get("segmentation")
    result = {
        "bbox": [round(float(x), 3) for x in box],
        "area": float(_annotation_area(segmentation, box)),
        "iscrowd": int(annotation.get("iscrowd", 0)),
    }
    if "keypoints" in annotation:
        numbers = annotation["keypoints"]
        result["keypoints"] = [n if i % 3 == 2 else n - 0.5 for i, n in enumerate(numbers)]
        visible = sum(v > 0 for v in numbers[2::3])
        result["num_keypoints"] = annotation.get("num_keypoints", visible)
    if isinstance(segmentation, dict):
        counts = segmentation["counts"]
        segmentation = {**segmentation, "counts": counts if isinstance(counts, str) else counts.decode("ascii")}
    if segmentation is not None:
        result["segmentation"] = segmentation
    return result


def convert_to_coco_dict(dataset_name: str) -> dict[str, Any]:
    """The records of a registered data set in COCO's json format.

    Args:
        dataset_name: registered in the DatasetCatalog, with `thing_classes` in its metadata. Where the metadata have
            `thing_dataset_id_to_contiguous_id`, category ids are mapped back with it.

    Returns:
        a dict that `json.dump` takes. Annotations are numbered from 1.
    """
    records = DatasetCatalog.get(dataset_name)
    metadata = MetadataCatalog.get(dataset_name)
    contiguous = metadata.get("thing_dataset_id_to_contiguous_id")
    if contiguous is None:
        original_ids = list(range(len(metadata.thing_classes)))
    else:
        original_ids = {index: category_id for category_id, index in contiguous.items()}

    logger.info(f"Converting the records of '{dataset_name}' to COCO's format")
    images, annotations = [], []
    for position, record in enumerate(records):
        image = {
            "id": record.get("image_id", position),
            "width": int(record["width"]),
            "height": int(record["height"]),
            "file_name": str(record["file_name"]),
        }
        images.append(image)
        for annotation in record.get("annotations", []):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image["id"],
                    "category_id": int(original_ids[annotation["category_id"]]),
                    **_to_coco_annotation(annotation),
                }
            )
    logger.info(f"Converted {len(images)} images with {len(annotations)} annotations")

    result = {
        "info": {
            "date_created": str(datetime.datetime.now()),
            "description": "COCO json file made by detectron2 from the records of a data set.",
        },
        "images": images,
        "categories": [{"id": original_ids[index], "name": name} for index, name in enumerate(metadata.thing_classes)],
        "licenses": None,
    }
    if annotations:
        result["annotations"] = annotations
    return result


def convert_to_coco_json(dataset_name: str, output_file: str, allow_cached: bool = True) -> None:
    """Write a registered data set as a json file in COCO's format; processes that do it at the same time wait for
    each other.

    Args:
        dataset_name: see `convert_to_coco_dict`.
        output_file: path of the file; its folder is made.
        allow_cached: leave a file that exists as it is.
    """
    folder = os.path.dirname(output_file)
    if folder:
        PathManager.mkdirs(folder)
    with file_lock(output_file):
        if allow_cached and PathManager.exists(output_file):
            logger.warning(
                f"Using the annotations of '{dataset_name}' cached in '{output_file}'. Delete the file if the data set "
                "has changed since."
            )
            return
        content = convert_to_coco_dict(dataset_name)
        logger.info(f"Writing the annotations of '{dataset_name}' to '{output_file}'")
        # Moved into place when complete, so that an interruption leaves no half file to be taken from the cache.
        unfinished = f"{output_file}.tmp"
        with PathManager.open(unfinished, "w") as f:
            json.dump(content, f)
        shutil.move(unfinished, output_file)


def register_coco_instances(
    name: str, metadata: dict[str, Any], json_file: str | os.PathLike, image_root: str | os.PathLike
) -> None:
    """Register a data set whose annotations are a file in COCO's instances format. The file is read on first use.

    Args:
        name: e.g. "my_dataset_train".
        metadata: more entries for its metadata; may be empty.
        json_file: path of the annotation file.
        image_root: the folder that its file names are relative to.
    """
    assert isinstance(name, str), f"the name of a data set must be a string, got {name!r}"
    for argument, value in (("json_file", json_file), ("image_root", image_root)):
        assert isinstance(value, (str, os.PathLike)), f"{argument} of '{name}' must be a path, got {value!r}"
    if name not in DatasetCatalog:
        DatasetCatalog.register(name, lambda: load_coco_json(json_file, image_root, name))
    MetadataCatalog.get(name).set(json_file=json_file, image_root=image_root, evaluator_type="coco", **metadata)
