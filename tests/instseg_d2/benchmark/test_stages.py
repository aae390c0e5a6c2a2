"""Times of parts with a clock that only the parts move."""

import pytest
import torch
from torch import nn

from instseg_d2.benchmark.stages import StageTime, stage_modules, time_stages
from instseg_d2.testing import tiny_mask_rcnn


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Work(nn.Module):
    def __init__(self, clock, *costs):
        super().__init__()
        self.clock, self.costs = clock, list(costs)

    def forward(self, x):
        self.clock.now += self.costs.pop(0) if len(self.costs) > 1 else self.costs[0]
        return x


class Heads(nn.Module):
    def __init__(self, clock):
        super().__init__()
        self.clock = clock
        self.box_head = nn.ModuleList([Work(clock, 1), Work(clock, 2)])
        self.mask_head = Work(clock, 30)

    def forward(self, x):
        for head in self.box_head:
            x = head(x)
        self.clock.now += 0.5
        return self.mask_head(x)


class Model(nn.Module):
    """1 before, backbone 10 (20 in its third call), 4 between, heads 3 + 30 and 0.5 of their own, 7 after."""

    def __init__(self, clock):
        super().__init__()
        self.clock = clock
        self.backbone = Work(clock, 10, 10, 20, 10)
        self.roi_heads = Heads(clock)
        self.never_called = nn.Identity()

    def forward(self, x):
        self.clock.now += 1
        x = self.backbone(x)
        self.clock.now += 4
        x = self.roi_heads(x)
        self.clock.now += 7
        return x


@pytest.fixture
def clock():
    return Clock()


def test_each_part_without_those_inside_of_it(clock):
    model = Model(clock)
    rows = time_stages(model, lambda: model(1), repeats=3, warmup=0, clock=clock)
    assert rows == [
        StageTime("preprocess", 1, 1, 1, 0),
        StageTime("backbone", 10, 10, 20, 1),
        StageTime("roi_heads", 0.5, 0.5, 0.5, 1),
        StageTime("roi_heads.box_head", 3, 3, 3, 2),
        StageTime("roi_heads.mask_head", 30, 30, 30, 1),
        StageTime("in between", 4, 4, 4, 0),
        StageTime("postprocess", 7, 7, 7, 0),
    ]


def test_warmup_and_time_between_calls_do_not_count(clock):
    model = Model(clock)

    def run():
        for _ in range(2):
            clock.now += 1000
            model(1)

    rows = {row.name: row for row in time_stages(model, run, repeats=1, warmup=2, clock=clock)}
    assert rows["backbone"] == StageTime("backbone", 20, 20, 20, 2)
    assert rows["preprocess"].median == 2
    assert sum(row.median for row in rows.values()) == 2 * 55.5


def test_hooks_are_gone_afterwards(clock):
    model = Model(clock)
    with pytest.raises(ZeroDivisionError):
        time_stages(model, lambda: model(1) / 0, repeats=1, warmup=0, clock=clock)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_parts_of_a_mask_rcnn():
    model = tiny_mask_rcnn().eval()
    assert list(stage_modules(model)) == [
        "backbone",
        "proposal_generator",
        "roi_heads",
        "roi_heads.box_pooler",
        "roi_heads.box_head",
        "roi_heads.box_predictor",
        "roi_heads.mask_pooler",
        "roi_heads.mask_head",
    ]

    def run():
        with torch.inference_mode():
            model([{"image": torch.zeros(3, 64, 96, dtype=torch.uint8)}])

    called = {row.name: row.calls for row in time_stages(model, run, repeats=1)}
    assert {"preprocess", "backbone", "proposal_generator", "roi_heads.mask_head", "postprocess"} <= called.keys()
    assert called["roi_heads"] == 1
