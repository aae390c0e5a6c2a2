"""Masks for a data set that has boxes: a trained model segments the annotated boxes, which stay as they are."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.structures import Boxes, BoxMode
from pycocotools import mask as mask_util
from tqdm import tqdm

from instseg_d2.data import DatasetError, validate_coco
from instseg_d2.data.datasets import read_coco_json
from instseg_d2.data.media import MediaError, load_image
from instseg_d2.data.occluders import cut_at_boxes
from instseg_d2.data.run_lengths import encode_mask

from .predictor import Predictor

Annotation = dict[str, Any]


@dataclass(frozen=True)
class AnnotatedSet:
    """A data set with the masks it had and those that were predicted.

    Attributes:
        content: a COCO data set for `json.dumps`.
        predicted: number of annotations that were given a mask.
        kept: number of annotations that had one before.
        without: for each other annotation, where it is and why it has none.
        unreadable: for each image file that cannot be read, what is wrong.
    """

    content: dict[str, Any]
    predicted: int
    kept: int
    without: list[str]
    unreadable: list[str]


@dataclass(frozen=True)
class _Work:
    """An image, and its boxes that ask for a mask: (N, 4) xyxy inside the image."""

    image: dict[str, Any]
    annotations: list[Annotation]
    boxes: torch.Tensor


def read_boxes(json_file: str | os.PathLike, image_root: str | os.PathLike) -> dict[str, Any]:
    """Read a COCO data set whose annotations may lack masks, and check it and that all its images are there.

    Raises:
        DatasetError: it cannot be used; the message lists each kind of problem.
    """
    content = read_coco_json(json_file)
    fatal = [problem for problem in validate_coco(content, image_root=image_root) if problem.fatal]
    if fatal:
        raise DatasetError(f"{json_file} cannot be used:\n" + "\n".join(f"  {problem}" for problem in fatal))
    return content


def annotate_masks(
    predictor: Predictor,
    content: dict[str, Any],
    image_root: str | os.PathLike,
    *,
    batch_size: int = 1,
    progress: bool = False,
) -> AnnotatedSet:
    """Give every annotation without a mask the one that a model draws for its box and class.

    A mask is cut at its box, which is the truth. Boxes, classes and all entries that are not named here stay:
    `segmentation` becomes the mask as compressed run lengths, `area` its pixels, and `iscrowd` 0 where it is missing.
    Annotations that have a mask keep it, crowd regions stay as they are. An annotation whose box lies outside the
    image, or for which the model draws nothing, is left without a mask, as are those of an image that cannot be read.

    Args:
        predictor: of a model that can be given boxes; its metadata names the classes.
        content: a COCO data set, see `read_boxes`; not changed.
        image_root: the folder that its file names are relative to.
        batch_size: images in one pass.
        progress: show a bar on standard error, if that is a terminal.

    Raises:
        DatasetError: the model does not know a category, or an image file has another size than the data set says.
        SettingError: the model cannot be given boxes, or predicts no masks.
    """
    classes = _class_indices(predictor, content)
    masks: dict[int, dict[str, Any]] = {}
    without, unreadable = [], []
    work = list(_work(content, without))
    with tqdm(total=len(work), desc="masks", unit="image", disable=None if progress else True) as bar:
        for start in range(0, len(work), batch_size):
            batch = work[start : start + batch_size]
            loaded = list(_load(batch, Path(image_root), without, unreadable))
            if loaded:
                masks |= _segment(predictor, loaded, classes, without)
            bar.update(len(batch))
    annotations = [_with_mask(annotation, masks.get(annotation["id"])) for annotation in content["annotations"]]
    kept = sum(bool(annotation.get("segmentation")) for annotation in content["annotations"])
    return AnnotatedSet({**content, "annotations": annotations}, len(masks), kept, without, unreadable)


def _asks_for_mask(annotation: Annotation) -> bool:
    return not annotation.get("segmentation") and not annotation.get("iscrowd", 0)


def _class_indices(predictor: Predictor, content: dict[str, Any]) -> dict[int, int]:
    """Class index of the model for each category that is needed, by name; by order where the model knows no names."""
    needed = {annotation["category_id"] for annotation in content["annotations"] if _asks_for_mask(annotation)}
    categories = sorted(content["categories"], key=lambda category: category["id"])
    known = getattr(predictor.metadata, "thing_classes", None)
    if known is None:
        return {category["id"]: index for index, category in enumerate(categories)}
    unknown = [entry["name"] for entry in categories if entry["id"] in needed and entry["name"] not in known]
    if unknown:
        raise DatasetError(
            f"the model has no class {', '.join(map(repr, unknown))}; it was trained for {', '.join(known)}: give the "
            "categories of the data set these names, or train on it"
        )
    return {entry["id"]: known.index(entry["name"]) for entry in categories if entry["id"] in needed}


def _work(content: dict[str, Any], without: list[str]) -> Iterator[_Work]:
    """The images with boxes to segment; boxes that lie outside their image are noted in `without`."""
    by_image: dict[Any, list[Annotation]] = {}
    for annotation in filter(_asks_for_mask, content["annotations"]):
        by_image.setdefault(annotation["image_id"], []).append(annotation)
    for image in content["images"]:
        annotations = by_image.get(image["id"], [])
        corners = [BoxMode.convert(one["bbox"], BoxMode.XYWH_ABS, BoxMode.XYXY_ABS) for one in annotations]
        boxes = Boxes(torch.tensor(corners, dtype=torch.float32).reshape(-1, 4))
        boxes.clip((image["height"], image["width"]))
        inside = boxes.nonempty()
        for annotation, is_inside in zip(annotations, inside.tolist(), strict=True):
            if not is_inside:
                without.append(f"{_where(annotation)}: its box {annotation['bbox']} has no area in the image")
        if inside.any():
            usable = [one for one, is_inside in zip(annotations, inside.tolist(), strict=True) if is_inside]
            yield _Work(image, usable, boxes.tensor[inside])


def _load(
    batch: Sequence[_Work], image_root: Path, without: list[str], unreadable: list[str]
) -> Iterator[tuple[_Work, np.ndarray]]:
    for work in batch:
        path = image_root / work.image["file_name"]
        try:
            picture = load_image(path)
        except MediaError as error:
            unreadable.append(str(error))
            without += [f"{_where(annotation)}: the image cannot be read" for annotation in work.annotations]
            continue
        said = (work.image["height"], work.image["width"])
        if picture.shape[:2] != said:
            raise DatasetError(
                f"image {work.image['id']!r} is {said[0]} x {said[1]} px (height x width) in the annotation file, but "
                f"{path} has {picture.shape[0]} x {picture.shape[1]} px: the boxes would not fit; correct the file"
            )
        yield work, picture


def _segment(
    predictor: Predictor, loaded: list[tuple[_Work, np.ndarray]], classes: dict[int, int], without: list[str]
) -> dict[int, dict[str, Any]]:
    """Run lengths of the masks of some images, by annotation id."""
    indices = [torch.tensor([classes[one["category_id"]] for one in work.annotations]) for work, _ in loaded]
    predicted = predictor.segment_batch([picture for _, picture in loaded], [work.boxes for work, _ in loaded], indices)
    found = {}
    for (work, _), masks in zip(loaded, predicted, strict=True):
        for annotation, mask in zip(work.annotations, cut_at_boxes(masks.cpu(), work.boxes).numpy(), strict=True):
            if mask.any():
                found[annotation["id"]] = encode_mask(mask)
            else:
                without.append(f"{_where(annotation)}: the model draws nothing in its box")
    return found


def _with_mask(annotation: Annotation, mask: dict[str, Any] | None) -> Annotation:
    if mask is None:
        return dict(annotation)
    return {"iscrowd": 0, **annotation, "segmentation": mask, "area": int(mask_util.area(mask))}


def _where(annotation: Annotation) -> str:
    return f"annotation {annotation['id']} of image {annotation['image_id']!r}"
