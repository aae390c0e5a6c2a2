"""Predictions as a COCO data set."""

import json
from pathlib import Path
from typing import Any

from detectron2.data import Metadata
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances
from pycocotools import mask as mask_utils

from instseg_d2.files import write_whole


class Categories:
    """Category ids and names of a data set behind the class indices of a model.

    Args:
        metadata: of the data set that the model was trained for; None, or without names, gives "class 0" and on.
    """

    def __init__(self, metadata: Metadata | None) -> None:
        self._names = getattr(metadata, "thing_classes", None)
        ids = getattr(metadata, "thing_dataset_id_to_contiguous_id", {})
        self._ids = {index: category for category, index in ids.items()}

    def name(self, index: int) -> str:
        """Name of a class."""
        return self._names[index] if self._names else f"class {index}"

    def names(self, count: int) -> list[str]:
        """Names of all classes, of at least `count`."""
        return [self.name(index) for index in range(max(count, len(self._names or ())))]

    def record(self, index: int) -> dict[str, Any]:
        """`id` and `name` of a class, as a json file has them."""
        return {"id": self._ids.get(index, index + 1), "name": self.name(index)}

    def index(self, category_id: int) -> int:
        """The class behind a category id."""
        return {category: index for index, category in self._ids.items()}.get(category_id, category_id - 1)


class CocoWriter:
    """Collects predictions as a COCO data set.

    Args:
        path: the json to write.
        metadata: of the data set that the model was trained for; gives category names and ids.
    """

    def __init__(self, path: Path, metadata: Metadata | None) -> None:
        self.path = path
        self.images, self.annotations, self.categories = [], [], {}
        self._categories = Categories(metadata)

    def add(self, file_name: str, shape: tuple[int, int], instances: Instances) -> None:
        """Add one image of shape (height, width) and its predicted Instances."""
        image_id = len(self.images) + 1
        self.images.append({"id": image_id, "file_name": file_name, "height": shape[0], "width": shape[1]})
        for item in instances_to_coco_json(instances.to("cpu"), image_id):
            category = self._categories.record(item["category_id"])
            item["category_id"] = category["id"]
            self.categories[category["id"]] = category
            width, height = item["bbox"][2:]
            mask = item.get("segmentation")
            area = int(mask_utils.area(mask)) if mask else width * height
            self.annotations.append({"id": len(self.annotations) + 1, "iscrowd": 0, "area": area, **item})

    def write(self) -> None:
        """Write the json, replacing an older one only when the new one is whole."""
        categories = [self.categories[key] for key in sorted(self.categories)]
        data = {"images": self.images, "annotations": self.annotations, "categories": categories}
        write_whole(self.path, json.dumps(data))
