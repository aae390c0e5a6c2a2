"""Learning-rate schedules whose drops are fractions of the training and whose warm-up is a number of iterations."""

from collections.abc import Sequence

from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import CosineParamScheduler, MultiStepParamScheduler, ParamScheduler


def _with_warmup(scheduler: ParamScheduler, max_iter: int, warmup_iters: int, warmup_factor: float) -> ParamScheduler:
    if max_iter <= 0:
        raise ValueError(f"train.max_iter must be positive, not {max_iter}")
    # A training shorter than its warm-up would never reach the learning rate: spend at most half of it there.
    length = min(warmup_iters / max_iter, 0.5)
    return WarmupParamScheduler(scheduler, warmup_factor=warmup_factor, warmup_length=length, warmup_method="linear")


def warmup_multistep(
    *,
    max_iter: int,
    drop_at: Sequence[float],
    warmup_iters: int,
    gamma: float = 0.1,
    warmup_factor: float = 0.001,
) -> ParamScheduler:
    """Linear warm-up, then a constant rate multiplied by `gamma` at each drop.

    Args:
        max_iter: iterations of the training.
        drop_at: when to drop, as fractions of the training, increasing, in (0, 1).
        warmup_iters: iterations of warm-up; at most half of the training is spent on it.
        gamma: factor of each drop.
        warmup_factor: multiplier at the first iteration.

    Returns:
        A scheduler of the learning-rate multiplier over the progress in [0, 1].

    Raises:
        ValueError: the drops are not increasing fractions, or `max_iter` is not positive.
    """
    edges = [0.0, *drop_at, 1.0]
    if any(after <= before for before, after in zip(edges, edges[1:], strict=False)):
        raise ValueError(f"drop_at must be increasing fractions between 0 and 1, not {list(drop_at)}")
    values = [gamma**step for step in range(len(drop_at) + 1)]
    milestones = [round(fraction * max_iter) for fraction in drop_at]
    scheduler = MultiStepParamScheduler(values, milestones=milestones, num_updates=max(max_iter, len(values)))
    return _with_warmup(scheduler, max_iter, warmup_iters, warmup_factor)


def warmup_cosine(
    *, max_iter: int, warmup_iters: int, end_value: float = 0.01, warmup_factor: float = 0.001
) -> ParamScheduler:
    """Linear warm-up, then half a cosine from 1 down to `end_value`. Arguments as in `warmup_multistep`."""
    return _with_warmup(CosineParamScheduler(1.0, end_value), max_iter, warmup_iters, warmup_factor)
