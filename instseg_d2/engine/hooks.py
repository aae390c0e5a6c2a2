"""Training hooks beside detectron2's: moving average of the weights, best checkpoint, clean stop on a signal."""

import logging
import math
import signal
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from instseg_d2.checkpoint import Checkpointer

_log = logging.getLogger(__name__)


class EMAHook(HookBase):
    """Keeps an exponential moving average of the weights; buffers such as BatchNorm statistics follow the model's.

    Args:
        model: the bare model (not its DDP wrapper).
        decay: weight of the old average at each step. Early in the training a smaller one is used,
            (1 + step) / (10 + step), so that the random start is forgotten.
    """

    def __init__(self, model: nn.Module, decay: float = 0.9998) -> None:
        self.model = model
        self.decay = decay
        self.averaged = AveragedModel(model, multi_avg_fn=self._average)

    @torch.no_grad()
    def _average(self, averaged: list, current: list, num_averaged: torch.Tensor | int) -> None:
        step = int(num_averaged)
        get_ema_multi_avg_fn(min(self.decay, (1 + step) / (10 + step)))(averaged, current, num_averaged)

    def after_step(self) -> None:
        self.averaged.update_parameters(self.model)

    def state_dict(self) -> dict:
        return self.averaged.state_dict()

    def load_state_dict(self, state: dict) -> None:
        self.averaged.load_state_dict(state)


class BestCheckpoint(HookBase):
    """Writes `model_best.pth` when the watched metric rises. Run it after the evaluation hook.

    Args:
        checkpointer: of the model that is evaluated; `last_checkpoint` is left alone, so that resuming goes on from
            the latest state.
        metric: key in the event storage, such as `segm/AP`.
    """

    def __init__(self, checkpointer: Checkpointer, metric: str) -> None:
        self.checkpointer = checkpointer
        self.metric = metric
        self.best = -math.inf
        self._seen_at = -1

    def _check(self) -> None:
        value, iteration = self.trainer.storage.latest().get(self.metric, (math.nan, -1))
        if iteration == self._seen_at or not math.isfinite(value):
            return
        self._seen_at = iteration
        if value > self.best:
            self.best = value
            _log.info(f"best {self.metric} so far: {value:.3f} at iteration {iteration}")
            self.checkpointer.write("model_best", iteration=iteration, metric={self.metric: value})

    def after_step(self) -> None:
        self._check()

    def after_train(self) -> None:
        self._check()
        reported = sorted(name for name in self.trainer.storage.latest() if "/AP" in name)
        if reported and self.metric not in reported:
            _log.warning(
                f"model_best.pth is not written: the evaluation reports no '{self.metric}' "
                f"(train.checkpointer.best_metric), but {', '.join(reported[:8])}"
            )

    def state_dict(self) -> dict:
        return {"best": self.best, "seen_at": self._seen_at}

    def load_state_dict(self, state: dict) -> None:
        self.best, self._seen_at = state["best"], state["seen_at"]


class TrainingStopped(SystemExit):
    """The training was asked to stop by a signal and has saved its state; exit code 128 + signal number."""


class StopOnSignal(HookBase):
    """On SIGTERM or SIGINT: finish the running iteration, save, and leave with `TrainingStopped`.

    A second SIGINT interrupts at once, as usual. Under DDP all ranks stop after the same iteration, whichever of
    them got the signal.

    Args:
        save: called with the name of the checkpoint.
    """

    def __init__(self, save: Callable[..., Any]) -> None:
        self.save = save
        self._signal = 0

    @contextmanager
    def listening(self):
        """Catch the signals within this context, and restore the former handlers after it."""

        def handler(number: int, frame: Any) -> None:
            if self._signal and number == signal.SIGINT:
                raise KeyboardInterrupt
            self._signal = number
            _log.warning(f"{signal.Signals(number).name}: saving after this iteration")

        former = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, old in former.items():
                signal.signal(number, old)

    def after_step(self) -> None:
        number = self._signal
        if comm.get_world_size() > 1:
            flag = torch.tensor(number, device=next(self.trainer.model.parameters()).device)
            torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
            number = int(flag)
        if number:
            self.save(f"model_{self.trainer.iter:07d}", iteration=self.trainer.iter)
            _log.warning(f"stopped after iteration {self.trainer.iter} as asked; continue with --resume")
            raise TrainingStopped(128 + number)
