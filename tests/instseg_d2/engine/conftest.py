"""A video model whose tracks are known: each pure color is an object, its id and class say which."""

import numpy as np
import pytest
import torch
from detectron2.data import Metadata
from detectron2.structures import BitMasks, Instances
from torch import nn

from instseg_d2.data.clips import Clip


class ColorTracker(nn.Module):
    """Blue, green and red are the objects 1 to 3; green is found, but is no track before it was seen twice."""

    def __init__(self):
        super().__init__()
        self.scores = nn.Parameter(torch.tensor([0.9, 0.8, 0.4]))
        self.reset()

    def reset(self):
        self.seen = 0

    def step(self, frame):
        masks = frame["image"] > 128
        there = masks.flatten(1).any(dim=1)
        found = Instances((frame["height"], frame["width"]))
        found.pred_boxes = BitMasks(masks[there]).get_bounding_boxes()
        found.pred_masks = masks[there]
        found.pred_classes = torch.arange(3)[there]
        found.scores = self.scores[there]
        found.pred_ids = torch.arange(1, 4)[there] * ((torch.arange(3) != 1) | (self.seen > 0))[there]
        self.seen += int(there[1])
        return found


@pytest.fixture
def color_tracker():
    return ColorTracker().eval()


def color_frame(boxes, size=(24, 32)):
    """A black frame with boxes (x0, y0, x1, y1) by channel; they may overlap."""
    frame = np.zeros((*size, 3), np.uint8)
    for channel, (x0, y0, x1, y1) in boxes.items():
        frame[y0:y1, x0:x1, channel] = 255
    return frame


@pytest.fixture
def color_frames():
    """Five frames: blue moves, green comes and goes, blue is away once, nothing at the end."""
    return [
        color_frame({0: (0, 0, 4, 4), 1: (10, 10, 14, 14)}),
        color_frame({0: (2, 0, 6, 4), 1: (10, 10, 14, 14), 2: (11, 11, 20, 20)}),
        color_frame({1: (10, 10, 14, 14)}),
        color_frame({0: (6, 0, 10, 4)}),
        color_frame({}),
    ]


@pytest.fixture
def clip(tmp_path):
    return Clip(tmp_path / "colors.mp4")


@pytest.fixture
def metadata():
    return Metadata(thing_classes=["blue", "green", "red"], thing_dataset_id_to_contiguous_id={10: 0, 20: 1, 30: 2})
