"""Learning-rate curves against their formulas."""

import math
import warnings

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.solver import (
    LRMultiplier,
    WarmupCosineLR,
    WarmupMultiStepLR,
    WarmupParamScheduler,
    build_lr_scheduler,
)
from detectron2.solver.lr_scheduler import _get_warmup_factor_at_iter
from fvcore.common.param_scheduler import CosineParamScheduler, MultiStepParamScheduler
from torch import nn


def sgd(*rates):
    return torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in rates])


def curve(optimizer, scheduler, steps):
    values = [optimizer.param_groups[0]["lr"]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(steps):
            optimizer.step()
            scheduler.step()
            values.append(optimizer.param_groups[0]["lr"])
    return values


def config(**solver):
    cfg = get_cfg()
    cfg.SOLVER.update({"MAX_ITER": 20, "WARMUP_ITERS": 4, "WARMUP_FACTOR": 0.5, "BASE_LR": 2.0, **solver})
    return cfg


def test_multi_step():
    cfg = config(STEPS=(10, 15, 99), GAMMA=0.1)  # 99 lies beyond the end
    optimizer = sgd(2.0)
    values = curve(optimizer, build_lr_scheduler(cfg, optimizer), 19)
    expected = [1.0, 1.25, 1.5, 1.75] + [2.0] * 6 + [0.2] * 5 + [0.02] * 5
    assert values == pytest.approx(expected)


def test_cosine_ends_at_its_end():
    cfg = config(LR_SCHEDULER_NAME="WarmupCosineLR", BASE_LR_END=0.5, WARMUP_ITERS=0)
    optimizer = sgd(2.0)
    values = curve(optimizer, build_lr_scheduler(cfg, optimizer), 20)
    expected = [0.5 + 0.75 * (1 + math.cos(math.pi * i / 20)) for i in range(21)]
    assert values == pytest.approx(expected)


def test_fixed_gamma_steps():
    cfg = config(LR_SCHEDULER_NAME="WarmupStepWithFixedGammaLR", GAMMA=0.5, NUM_DECAYS=3, WARMUP_ITERS=0)
    optimizer = sgd(2.0)
    values = curve(optimizer, build_lr_scheduler(cfg, optimizer), 19)
    assert values == pytest.approx([2.0] * 5 + [1.0] * 5 + [0.5] * 5 + [0.25] * 5)


def test_constant_warmup():
    cfg = config(WARMUP_METHOD="constant", STEPS=())
    optimizer = sgd(2.0)
    assert curve(optimizer, build_lr_scheduler(cfg, optimizer), 6) == pytest.approx([1.0] * 4 + [2.0] * 3)


def test_warmup_longer_than_the_training_is_cut():
    cfg = config(WARMUP_ITERS=1000, STEPS=())
    optimizer = sgd(2.0)
    assert curve(optimizer, build_lr_scheduler(cfg, optimizer), 10)[10] == pytest.approx(1.5)


@pytest.mark.parametrize("rescale", [True, False])
def test_warmup_joins_the_schedule(rescale):
    cosine = CosineParamScheduler(1.0, 0.0)
    scheduler = WarmupParamScheduler(cosine, 0.1, 0.2, "linear", rescale)
    assert scheduler(0.0) == pytest.approx(0.1)
    top = 1.0 if rescale else cosine(0.2)
    assert scheduler(0.1) == pytest.approx((0.1 + top) / 2)
    assert scheduler(0.2) == pytest.approx(top)
    assert scheduler(0.6) == pytest.approx(cosine(0.5) if rescale else cosine(0.6))


def test_multiplier_keeps_the_ratios_and_resumes():
    steps = MultiStepParamScheduler([1, 0.1], milestones=[3], num_updates=6)
    optimizer = sgd(1.0, 10.0)
    scheduler = LRMultiplier(optimizer, steps, max_iter=6)
    curve(optimizer, scheduler, 4)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.1, 1.0])
    state = scheduler.state_dict()
    assert state == {"base_lrs": [1.0, 10.0], "last_epoch": 4}

    other = LRMultiplier(sgd(5.0, 5.0), steps, max_iter=6)
    other.load_state_dict(state)
    assert (other.last_epoch, other.base_lrs) == (4, [1.0, 10.0])
    assert other.get_lr() == pytest.approx([0.1, 1.0])


def test_wrong_arguments():
    with pytest.raises(ValueError, match="ParamScheduler"):
        LRMultiplier(sgd(1.0), lambda where: 1.0, max_iter=3)
    with pytest.raises(ValueError, match="exponential"):
        WarmupParamScheduler(CosineParamScheduler(1, 0), 0.1, 0.1, "exponential")
    with pytest.raises(ValueError, match="NoSuchLR"):
        build_lr_scheduler(config(LR_SCHEDULER_NAME="NoSuchLR"), sgd(1.0))
    with pytest.raises(ValueError, match=r"(?i)milestones"):
        WarmupMultiStepLR(sgd(1.0), [5, 3])


def test_older_schedules():
    optimizer = sgd(2.0)
    scheduler = WarmupMultiStepLR(optimizer, [6, 8], gamma=0.1, warmup_factor=0.5, warmup_iters=4)
    assert curve(optimizer, scheduler, 9) == pytest.approx([1.0, 1.25, 1.5, 1.75, 2.0, 2.0, 0.2, 0.2, 0.02, 0.02])
    optimizer = sgd(2.0)
    scheduler = WarmupCosineLR(optimizer, 10, warmup_factor=0.5, warmup_iters=2, warmup_method="constant")
    expected = [(0.5 if i < 2 else 1.0) * (1 + math.cos(math.pi * i / 10)) for i in range(10)]
    assert curve(optimizer, scheduler, 9) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("method", "i", "expected"),
    [("linear", 0, 0.1), ("linear", 5, 0.55), ("linear", 10, 1.0), ("constant", 9, 0.1), ("constant", 10, 1.0)],
)
def test_warmup_factor(method, i, expected):
    assert _get_warmup_factor_at_iter(method, i, 10, 0.1) == pytest.approx(expected)


def test_unknown_warmup_factor():
    with pytest.raises(ValueError, match="cubic"):
        _get_warmup_factor_at_iter("cubic", 0, 10, 0.1)
