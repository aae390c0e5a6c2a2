import contextlib
import io
import json
import uuid

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances
from pycocotools import mask as mask_util

HEIGHT, WIDTH = 60, 80
CATEGORIES = {3: "cup", 8: "pear", 20: "leaf"}  # contiguous: 0, 1, 2


def filled(box):
    x0, y0, x1, y1 = box
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8, order="F")
    mask[y0:y1, x0:x1] = 1
    return mask


@pytest.fixture
def rle():
    """Run lengths of a filled box (xyxy), as json has them."""

    def make(box):
        encoded = mask_util.encode(filled(box))
        return {"size": encoded["size"], "counts": encoded["counts"].decode()}

    return make


@pytest.fixture
def annotation(rle):
    """A COCO annotation that is a filled box."""

    def make(key, image_id, category, box, **more):
        x0, y0, x1, y1 = box
        polygon = [[float(value) for value in (x0, y0, x1, y0, x1, y1, x0, y1)]]
        made = {
            "id": key,
            "image_id": image_id,
            "category_id": category,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "area": (x1 - x0) * (y1 - y0),
            "iscrowd": 0,
            "segmentation": rle(box) if more.get("iscrowd") else polygon,
        }
        return {**made, **more}

    return make


@pytest.fixture
def dataset(tmp_path):
    """Writes annotations of images 1, 2, ... of 60 x 80 px and gives a name to evaluate them under."""
    names = []

    def make(annotations, images=2):
        names.append(f"test_{uuid.uuid4().hex[:8]}")
        content = {
            "images": [
                {"id": i, "height": HEIGHT, "width": WIDTH, "file_name": f"{i}.png"} for i in range(1, images + 1)
            ],
            "categories": [{"id": key, "name": name} for key, name in CATEGORIES.items()],
        }
        if annotations is not None:
            content["annotations"] = annotations
        path = tmp_path / f"{names[-1]}.json"
        path.write_text(json.dumps(content))
        MetadataCatalog.get(names[-1]).set(
            json_file=str(path),
            thing_classes=list(CATEGORIES.values()),
            thing_dataset_id_to_contiguous_id={key: index for index, key in enumerate(CATEGORIES)},
        )
        return names[-1]

    yield make
    for name in names:
        MetadataCatalog.remove(name)


@pytest.fixture
def detections():
    """Detections of one image, from (box, class index, score) triples; the masks are the filled boxes."""

    def make(triples):
        made = Instances((HEIGHT, WIDTH))
        made.pred_boxes = Boxes(torch.tensor([box for box, _, _ in triples], dtype=torch.float32).reshape(-1, 4))
        made.pred_classes = torch.tensor([category for _, category, _ in triples], dtype=torch.int64)
        made.scores = torch.tensor([score for _, _, score in triples], dtype=torch.float32)
        masks = np.array([filled(box) for box, _, _ in triples], dtype=bool).reshape(-1, HEIGHT, WIDTH)
        made.pred_masks = torch.from_numpy(masks)
        return made

    return make


@pytest.fixture
def evaluate(detections):
    """Results of an evaluator for {image id: triples}, without the tables that pycocotools prints."""

    def run(evaluator, found, **options):
        evaluator.reset()
        for image_id, triples in found.items():
            evaluator.process([{"image_id": image_id}], [{"instances": detections(triples)}])
        with contextlib.redirect_stdout(io.StringIO()):
            return evaluator.evaluate(**options)

    return run


@pytest.fixture
def scene(annotation):
    """Random small and medium boxes that overlap, of three categories, some of them crowds; detections near them."""

    def make(seed=0, images=12):
        rng = np.random.default_rng(seed)
        annotations, found = [], {}
        for image_id in range(1, images + 1):
            found[image_id] = []
            for _ in range(6):
                corner = rng.integers(0, [50, 30])
                other = np.minimum(corner + rng.integers(6, 56, 2), [WIDTH, HEIGHT])
                box = tuple(np.concatenate([corner, other]).tolist())
                category = int(rng.integers(3))
                more = {"covered": round(float(rng.choice([0, 0.1, 0.2, 0.4, 0.9])), 2)}
                more["iscrowd"] = int(rng.random() < 0.15)
                annotations.append(annotation(len(annotations) + 1, image_id, list(CATEGORIES)[category], box, **more))
                for _ in range(rng.integers(3)):
                    moved = np.clip(np.array(box) + rng.integers(-2, 3, 4), 0, [WIDTH, HEIGHT] * 2)
                    score = float(rng.choice([0.3, 0.5, 0.7, rng.random()]))
                    found[image_id].append((tuple(moved.tolist()), category, score))
        return annotations, found

    return make


@pytest.fixture
def tracks():
    """Files of YouTube-VIS in memory, of videos of 60 x 80 px; a track is a list of boxes (xyxy) and None."""

    class Tracks:
        def __init__(self, *lengths):
            self.truth = {
                "videos": [
                    {
                        "id": number,
                        "height": HEIGHT,
                        "width": WIDTH,
                        "file_names": [f"clip{number}/{frame}.jpg" for frame in range(length)],
                    }
                    for number, length in enumerate(lengths, start=1)
                ],
                "categories": [{"id": key, "name": name} for key, name in CATEGORIES.items()],
                "annotations": [],
            }
            self.results = []

        @staticmethod
        def masks(boxes):
            made = [None if box is None else mask_util.encode(filled(box)) for box in boxes]
            return [one and {"size": one["size"], "counts": one["counts"].decode()} for one in made]

        def annotate(self, boxes, category=3, video=1, **more):
            entry = {"id": len(self.truth["annotations"]) + 1, "video_id": video, "category_id": category, **more}
            self.truth["annotations"].append({**entry, "segmentations": self.masks(boxes)})

        def find(self, boxes, score=0.9, category=3, video=1):
            entry = {"video_id": video, "category_id": category, "score": score}
            self.results.append({**entry, "segmentations": self.masks(boxes)})

    return Tracks


@pytest.fixture
def video_dataset():
    """Gives a name of a data set of videos with some metadata."""
    names = []

    def make(**metadata):
        names.append(f"test_{uuid.uuid4().hex[:8]}")
        MetadataCatalog.get(names[-1]).set(**metadata)
        return names[-1]

    yield make
    for name in names:
        MetadataCatalog.remove(name)


@pytest.fixture
def tracked(detections):
    """Instances of a frame with identities, from (identity, box, class index, score)."""

    def make(*found):
        instances = detections([one[1:] for one in found])
        instances.pred_ids = torch.tensor([one[0] for one in found], dtype=torch.int64)
        return instances

    return make
