import copy

import pytest
import torch
from detectron2.config import instantiate

from instseg_d2.model_zoo import get_config


def stage_config(kind):
    """`model` node of a tiny stage of video object inpainting, narrower still, for clips of 32 x 48 px."""
    model = get_config(f"VOIN/voin_{kind}_tiny_occvideo_quick").model
    joint = kind == "joint"
    if kind == "shape" or joint:
        network = model.painter.shape.network if joint else model.network
        network.encoder.width = 4
        network.transformer.update(channels=16, num_layers=1, grids=[1, 2])
    if kind == "flow" or joint:
        network = model.painter.flow.network if joint else model.network
        network.network.widths = [4, 8, 8]
    if kind == "content" or joint:
        network = model.painter.content.network if joint else model.painter.network
        network.update(width=4, dilations=[2], mask_channels=4)
        model.critics.patch.channels = [4, 4, 8]
        model.critics.by_class.channels = [4, 4, 8, 8]
        model.critics.by_class.attention.channels = 8
    return model


@pytest.fixture(scope="session")
def stage_node():
    """From shape, flow, content or joint to a copy of the `model` node of that stage."""
    loaded = {}

    def load(kind):
        if kind not in loaded:
            loaded[kind] = stage_config(kind)
        return copy.deepcopy(loaded[kind])

    return load


@pytest.fixture
def make_stage(stage_node):
    """From a kind, and dotted settings, to that stage in training mode."""

    def make(kind, **settings):
        node = stage_node(kind)
        for key, value in settings.items():
            *parents, last = key.split("__")
            parent = node
            for name in parents:
                parent = parent[name]
            parent[last] = value
        torch.manual_seed(0)
        return instantiate(node)

    return make


def hidden_clip(number=0, length=3, height=32, width=48):
    """A textured square that moves by (2, 1) px a frame under a standing bar, as `InpaintingClips` gives it."""
    generator = torch.Generator().manual_seed(number)
    ground, skin, bar_skin = (torch.rand(3, height, width, generator=generator) * 2 - 1 for _ in range(3))
    body, bar = torch.zeros(1, height, width), torch.zeros(1, height, width)
    body[:, 6:22, 8 + number : 26 + number] = 1
    bar[:, :, 18:24] = 1
    frames = []
    for time in range(length):
        whole, texture = (part.roll((time, 2 * time), (1, 2)) for part in (body, skin))
        clean = torch.where(whole > 0.5, texture, ground)
        observed = torch.where(bar > 0.5, bar_skin, clean)
        frames.append((observed, clean, whole * (1 - bar), whole, whole * bar, bar))
    names = ("frames", "clean", "visible", "complete", "hole", "eraser")
    item = {name: torch.stack(parts) for name, parts in zip(names, zip(*frames, strict=True), strict=True)}
    step = torch.tensor([2.0, 1.0]).view(1, 2, 1, 1)
    item |= {"forward_flow": step * item["complete"][:-1], "backward_flow": -step * item["complete"][1:]}
    item |= {"class_index": torch.tensor(number % 3 - 1), "case": torch.tensor(1), "file_name": f"video/{number}"}
    return item


@pytest.fixture
def hidden_clips():
    """Makes hidden clips: how many, and their size."""

    def make(count=2, **size):
        return [hidden_clip(number, **size) for number in range(count)]

    return make
