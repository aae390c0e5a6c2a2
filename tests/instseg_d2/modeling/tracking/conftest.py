import pytest
import torch
from detectron2.structures import Boxes, Instances


@pytest.fixture
def detections():
    """From short lists to the detections of a frame; boxes are squares of 10 px, 20 px apart, unless they are given."""

    def make(embeddings=(), scores=None, classes=None, boxes=None):
        count = len(embeddings)
        embeddings = torch.tensor(embeddings, dtype=torch.float32) if count else torch.zeros(0, 2)
        if boxes is None:
            boxes = [[20.0 * index, 0, 20.0 * index + 10, 10] for index in range(count)]
        return Instances(
            (100, 1000),
            pred_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(count, 4)),
            scores=torch.tensor([0.9] * count if scores is None else scores),
            pred_classes=torch.tensor([0] * count if classes is None else classes, dtype=torch.int64),
            embeddings=embeddings,
        )

    return make
