"""Learning-rate schedules over fvcore's parameter schedulers; "epoch" in torch's interface means iteration here."""

from __future__ import annotations

import logging
import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import torch
from fvcore.common.param_scheduler import (
    CompositeParamScheduler,
    ConstantParamScheduler,
    LinearParamScheduler,
    ParamScheduler,
)
from torch.optim.lr_scheduler import LRScheduler

logger = logging.getLogger(__name__)


class WarmupParamScheduler(CompositeParamScheduler):
    """Put a warm-up phase in front of another fvcore scheduler.

    Args:
        scheduler: the schedule that applies after the warm-up.
        warmup_factor: value at the very start, as a fraction of ``scheduler(0)``.
        warmup_length: share of the whole training, in [0, 1], that the warm-up takes.
        warmup_method: ``"linear"`` (a ramp) or ``"constant"``.
        rescale_interval: False cuts the first ``warmup_length`` off ``scheduler``; True squeezes all of it into
            the time that remains.
    """

    def __init__(
        self,
        scheduler: ParamScheduler,
        warmup_factor: float,
        warmup_length: float,
        warmup_method: str = "linear",
        rescale_interval: bool = False,
    ):
        first = warmup_factor * scheduler(0.0)
        if warmup_method == "linear":
            # the ramp has to arrive exactly where the main schedule takes over
            ramp: ParamScheduler = LinearParamScheduler(first, scheduler(0.0 if rescale_interval else warmup_length))
        elif warmup_method == "constant":
            ramp = ConstantParamScheduler(first)
        else:
            raise ValueError(f"warmup_method is 'linear' or 'constant', got {warmup_method!r}")
        super().__init__(
            [ramp, scheduler],
            lengths=[warmup_length, 1 - warmup_length],
            interval_scaling=["rescaled", "rescaled" if rescale_interval else "fixed"],
        )


class LRMultiplier(LRScheduler):
    """Scale the learning rate of every parameter group by the output of one fvcore scheduler.

    In iteration ``i`` a group's rate is its initial rate times ``multiplier(i / max_iter)``, so the ratios between
    the groups stay what they were.

    Args:
        optimizer: the optimizer to drive.
        multiplier: maps the progress of the training, in [0, 1), to a factor.
        max_iter: total number of iterations.
        last_iter: the iteration to continue from, -1 to start; torch's ``last_epoch``.

    Raises:
        ValueError: ``multiplier`` is not an fvcore ``ParamScheduler``.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        multiplier: ParamScheduler,
        max_iter: int,
        last_iter: int = -1,
    ):
        if not isinstance(multiplier, ParamScheduler):
            raise ValueError(f"LRMultiplier needs an fvcore ParamScheduler as multiplier, got {multiplier!r}")
        self._multiplier = multiplier
        self._max_iter = max_iter
        super().__init__(optimizer, last_epoch=last_iter)

    def state_dict(self) -> dict[str, Any]:
        """The position only: fvcore schedulers keep no state, and the schedule itself comes from the config."""
        return {"base_lrs": self.base_lrs, "last_epoch": self.last_epoch}

    def get_lr(self) -> list[float]:
        factor = self._multiplier(self.last_epoch / self._max_iter)
        return [lr * factor for lr in self.base_lrs]


class _WarmupLR(LRScheduler):
    """Warm-up counted in iterations, times a decay that the subclass defines."""

    def __init__(self, optimizer, warmup_factor, warmup_iters, warmup_method, last_epoch):
        logger.warning(f"{type(self).__name__} is kept for old code; use LRMultiplier with an fvcore scheduler")
        self.warmup_factor = warmup_factor
        self.warmup_iters = warmup_iters
        self.warmup_method = warmup_method
        super().__init__(optimizer, last_epoch)

    def _decay(self) -> float:
        raise NotImplementedError

    def get_lr(self) -> list[float]:
        warmup = _get_warmup_factor_at_iter(self.warmup_method, self.last_epoch, self.warmup_iters, self.warmup_factor)
        decay = self._decay()
        return [lr * warmup * decay for lr in self.base_lrs]


class WarmupMultiStepLR(_WarmupLR):
    """Warm-up, then a rate multiplied by ``gamma`` at each of the ascending ``milestones``."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        milestones: Sequence[int],
        gamma: float = 0.1,
        warmup_factor: float = 0.001,
        warmup_iters: int = 1000,
        warmup_method: str = "linear",
        last_epoch: int = -1,
    ):
        if list(milestones) != sorted(milestones):
            raise ValueError(f"milestones must ascend, got {milestones}")
        self.milestones = milestones
        self.gamma = gamma
        super().__init__(optimizer, warmup_factor, warmup_iters, warmup_method, last_epoch)

    def _decay(self) -> float:
        return self.gamma ** bisect_right(self.milestones, self.last_epoch)


class WarmupCosineLR(_WarmupLR):
    """A half cosine over ``max_iters`` iterations, multiplied by the warm-up factor at the start."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        max_iters: int,
        warmup_factor: float = 0.001,
        warmup_iters: int = 1000,
        warmup_method: str = "linear",
        last_epoch: int = -1,
    ):
        self.max_iters = max_iters
        super().__init__(optimizer, warmup_factor, warmup_iters, warmup_method, last_epoch)

    def _decay(self) -> float:
        return 0.5 * (1.0 + math.cos(math.pi * self.last_epoch / self.max_iters))


def _get_warmup_factor_at_iter(method: str, iter: int, warmup_iters: int, warmup_factor: float) -> float:
    """Factor on the learning rate in iteration ``iter``; 1 once the warm-up is over."""
    if iter >= warmup_iters:
        return 1.0
    if method == "constant":
        return warmup_factor
    if method == "linear":
        progress = iter / warmup_iters
        return warmup_factor * (1 - progress) + progress
    raise ValueError(f"Unknown warmup method: {method!r}; use 'linear' or 'constant'")
