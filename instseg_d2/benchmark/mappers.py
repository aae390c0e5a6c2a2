"""Seconds per image of the mappers: photographs in size and annotations, generated."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.data import DatasetMapper
from detectron2.structures import BoxMode
from omegaconf import DictConfig

from .models import blurry_image

_OBJECTS_PER_IMAGE = 7
_CORNERS = 24


def write_records(folder: Path, images: int, height: int = 480, width: int = 640, seed: int = 0) -> list[dict]:
    """Write JPEGs and give their records in detectron2's format: seven polygons an image, all of class 0."""
    rng = np.random.default_rng(seed)
    angles = np.linspace(0, 2 * np.pi, _CORNERS, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    records = []
    for index in range(images):
        path = folder / f"{index}.jpg"
        cv2.imwrite(str(path), blurry_image(height, width, seed=index).permute(1, 2, 0).numpy())
        annotations = []
        for number in range(_OBJECTS_PER_IMAGE):
            radius = rng.uniform(0.04, 0.2) * height
            centre = rng.uniform(radius, np.array([width, height]) - radius)
            points = centre + radius * rng.uniform(0.7, 1.0, (_CORNERS, 1)) * circle
            annotations.append(
                {
                    "id": number + 1,
                    "category_id": 0,
                    "iscrowd": 0,
                    "bbox": [*points.min(axis=0).tolist(), *points.max(axis=0).tolist()],
                    "bbox_mode": BoxMode.XYXY_ABS,
                    "segmentation": [points.ravel().tolist()],
                }
            )
        records.append(
            {
                "file_name": str(path),
                "image_id": index,
                "height": height,
                "width": width,
                "annotations": annotations,
            }
        )
    return records


def mapping(mapper: Callable[[dict], dict], records: list[dict]) -> Callable[[], None]:
    """A function that maps all records, with the same augmentations each time."""

    def run() -> None:
        np.random.seed(0)
        torch.manual_seed(0)
        for record in records:
            mapper(record)

    return run


def detectron2_mapper(cfg: DictConfig) -> DatasetMapper:
    """detectron2's own mapper with the augmentations and formats of a recipe's."""
    ours = instantiate(cfg.dataloader.train.mapper)
    return DatasetMapper(
        is_train=True,
        augmentations=ours.augmentations.augs,
        image_format=ours.image_format,
        use_instance_mask=ours.use_instance_mask,
        instance_mask_format=ours.instance_mask_format,
        recompute_boxes=ours.recompute_boxes,
    )
