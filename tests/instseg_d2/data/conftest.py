import copy
import json
import uuid

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

_CONTENT = {
    "categories": [{"id": 7, "name": "cup"}, {"id": 3, "name": "pear"}],
    "images": [
        {"id": 1, "file_name": "a.png", "height": 40, "width": 60},
        {"id": 2, "file_name": "b.png", "height": 40, "width": 60},
    ],
    "annotations": [
        {
            "id": 11,
            "image_id": 1,
            "category_id": 7,
            "iscrowd": 0,
            "area": 200,
            "bbox": [10, 5, 20, 10],
            "segmentation": [[10.0, 5.0, 30.0, 5.0, 30.0, 15.0, 10.0, 15.0]],
        },
        {
            "id": 12,
            "image_id": 1,
            "category_id": 3,
            "iscrowd": 0,
            "area": 120,
            "bbox": [40, 20, 10, 12],
            # Columns 40 to 49, rows 20 to 31 of an image of height 40.
            "segmentation": {"size": [40, 60], "counts": [1620] + [12, 28] * 9 + [12, 408]},
        },
        {
            "id": 13,
            "image_id": 2,
            "category_id": 3,
            "iscrowd": 0,
            "area": 50,
            "bbox": [0, 0, 10, 10],
            "segmentation": [[0.0, 0.0, 10.0, 0.0, 0.0, 10.0]],
        },
    ],
}


@pytest.fixture
def content():
    """A small COCO object: two images of 40 x 60, a polygon and a run-length mask, categories out of order."""
    return copy.deepcopy(_CONTENT)


@pytest.fixture
def write(tmp_path):
    """Writes images a.png and b.png and a json, and gives the paths of the json and of the image folder."""
    root = tmp_path / "pictures"
    root.mkdir()
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(root / name), np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))

    def write_json(content, name="labels.json"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path, root

    return write_json


@pytest.fixture
def name():
    """A name for the catalogs, forgotten after the test."""
    fresh = f"test_{uuid.uuid4().hex[:8]}"
    yield fresh
    if fresh in DatasetCatalog.list():
        DatasetCatalog.remove(fresh)
    if fresh in MetadataCatalog.list():
        MetadataCatalog.remove(fresh)
