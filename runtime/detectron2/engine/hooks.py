"""The standard hooks: timing, writing, checkpoints, learning rate, evaluation, batch-norm statistics, profiling."""

import itertools
import logging
import math
import os
import shutil
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

import torch
from fvcore.common.checkpoint import Checkpointer
from fvcore.common.checkpoint import PeriodicCheckpointer as _PeriodicCheckpointer
from fvcore.common.param_scheduler import ParamScheduler
from fvcore.common.timer import Timer
from fvcore.nn.precise_bn import get_bn_modules, update_bn_stats
from torch.optim.lr_scheduler import LRScheduler as _TorchScheduler

from detectron2.evaluation.testing import flatten_results_dict
from detectron2.solver import LRMultiplier
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, EventWriter
from detectron2.utils.file_io import PathManager

from .train_loop import HookBase

__all__ = [
    "AutogradProfiler",
    "BestCheckpointer",
    "CallbackHook",
    "EvalHook",
    "IterationTimer",
    "LRScheduler",
    "PeriodicCheckpointer",
    "PeriodicWriter",
    "PreciseBN",
    "TorchMemoryStats",
    "TorchProfiler",
]

logger = logging.getLogger(__name__)


def _due(iteration: int, period: int) -> bool:
    """Whether `iteration` (from 0) completes a period; a period of 0 is never due."""
    return period > 0 and (iteration + 1) % period == 0


class CallbackHook(HookBase):
    """Calls functions given by the user; each takes the trainer."""

    def __init__(self, *, before_train=None, after_train=None, before_step=None, after_step=None):
        self._callbacks: dict[str, Callable | None] = {
            "before_train": before_train,
            "after_train": after_train,
            "before_step": before_step,
            "after_step": after_step,
        }

    def _call(self, point: str) -> None:
        if callback := self._callbacks.get(point):
            callback(self.trainer)

    def before_train(self):
        self._call("before_train")

    def before_step(self):
        self._call("before_step")

    def after_step(self):
        self._call("after_step")

    def after_train(self):
        self._call("after_train")
        # Closures often hold the trainer, which holds this hook.
        self._callbacks.clear()


class IterationTimer(HookBase):
    """Stores the seconds of each step as ``time``, and logs the overall speed at the end.

    Register it first: it measures from its own `before_step` to its own `after_step`.
    """

    def __init__(self, warmup_iter: int = 3):
        """`warmup_iter`: the first iterations, which are not representative, are kept out of the summary."""
        self._warmup_iter = warmup_iter
        self._step_timer = Timer()
        self._steps_timer = Timer()
        self._start_time = time.perf_counter()

    def before_train(self):
        self._restart()
        self._steps_timer.pause()

    def _restart(self) -> None:
        self._start_time = time.perf_counter()
        self._steps_timer.reset()

    def before_step(self):
        self._step_timer.reset()
        self._steps_timer.resume()

    def after_step(self):
        done = self.trainer.storage.iter - self.trainer.start_iter + 1
        if done < self._warmup_iter:
            self._restart()
        else:
            self.trainer.storage.put_scalars(time=self._step_timer.seconds())
        self._steps_timer.pause()

    def after_train(self):
        total = time.perf_counter() - self._start_time
        in_steps = self._steps_timer.seconds()
        num_iter = self.trainer.storage.iter + 1 - self.trainer.start_iter - self._warmup_iter
        if num_iter > 0 and in_steps > 0:
            # Scripts that read logs look for this wording.
            logger.info(
                f"Overall training speed: {num_iter} iterations in {_hms(in_steps)} ({in_steps / num_iter:.4f} s / it)"
            )
        logger.info(f"Total training time: {_hms(total)} ({_hms(total - in_steps)} on hooks)")


def _hms(seconds: float) -> timedelta:
    return timedelta(seconds=int(seconds))


class PeriodicWriter(HookBase):
    """Lets writers write every `period` iterations, after the last one, and once more when training ends."""

    def __init__(self, writers: Iterable[EventWriter], period: int = 20):
        """`period` does not change over how many iterations a writer smooths its numbers."""
        self._writers = list(writers)
        for writer in self._writers:
            assert isinstance(writer, EventWriter), f"Not an EventWriter: {writer!r}"
        self._period = period

    def _write(self) -> None:
        for writer in self._writers:
            writer.write()

    def after_step(self):
        if _due(self.trainer.iter, self._period) or self.trainer.iter == self.trainer.max_iter - 1:
            self._write()

    def after_train(self):
        # Hooks before this one may have stored results in their after_train.
        for writer in self._writers:
            writer.write()
            writer.close()


class PeriodicCheckpointer(_PeriodicCheckpointer, HookBase):
    """fvcore's PeriodicCheckpointer as a hook: saves every `period` iterations and after the last one.

    What is saved is what the checkpointer was given, and the iteration.
    """

    def before_train(self):
        self.max_iter = self.trainer.max_iter

    def after_step(self):
        self.step(self.trainer.iter)


class BestCheckpointer(HookBase):
    """Keeps the checkpoint with the best value of one metric; register it after the EvalHook that stores the metric.

    The best value is not part of the trainer's state: a resumed training starts a new comparison.
    """

    def __init__(
        self,
        eval_period: int,
        checkpointer: Checkpointer,
        val_metric: str,
        mode: str = "max",
        file_prefix: str = "model_best",
    ) -> None:
        """Args:
        eval_period: the period of the EvalHook.
        checkpointer: saves the file.
        val_metric: name of the metric in the event storage, e.g. ``segm/AP``.
        mode: ``max`` or ``min``, which values are better.
        file_prefix: name of the file, without its ending.
        """
        assert mode in ("max", "min"), f"mode is 'max' or 'min', got {mode!r}"
        self._period = eval_period
        self._checkpointer = checkpointer
        self._val_metric = val_metric
        self._sign = 1 if mode == "max" else -1
        self._file_prefix = file_prefix
        self.best_metric: float | None = None
        self.best_iter: int | None = None

    def after_step(self):
        # The last iteration is evaluated in after_train.
        if _due(self.trainer.iter, self._period) and self.trainer.iter + 1 != self.trainer.max_iter:
            self._compare()

    def after_train(self):
        if self.trainer.iter + 1 >= self.trainer.max_iter:
            self._compare()

    def _compare(self) -> None:
        latest = self.trainer.storage.latest().get(self._val_metric)
        if latest is None:
            logger.warning(f"No metric {self._val_metric!r} has been stored: there is no best checkpoint to keep")
            return
        value, iteration = latest
        if not math.isfinite(value):
            logger.warning(f"{self._val_metric} is {value} at iteration {iteration}: not a candidate for the best")
            return
        if self.best_metric is not None and self._sign * value <= self._sign * self.best_metric:
            logger.info(
                f"{self._val_metric} is {value:.5f}, the best remains {self.best_metric:.5f} "
                f"of iteration {self.best_iter}"
            )
            return
        self._checkpointer.save(self._file_prefix, iteration=iteration)
        before = "" if self.best_metric is None else f", before {self.best_metric:.5f} of iteration {self.best_iter}"
        logger.info(f"Saved {self._file_prefix}: {self._val_metric} is {value:.5f} at iteration {iteration}{before}")
        self.best_metric, self.best_iter = value, iteration


class LRScheduler(HookBase):
    """Stores the learning rate as ``lr`` after each iteration and advances the scheduler."""

    def __init__(self, optimizer: torch.optim.Optimizer | None = None, scheduler: Any = None):
        """Args:
        optimizer: None takes the trainer's.
        scheduler: a torch LR scheduler, or a fvcore ParamScheduler that gives a factor on each base learning
            rate. None takes the trainer's.
        """
        self._optimizer = optimizer
        self._scheduler = scheduler

    @property
    def scheduler(self):
        return self._scheduler or self.trainer.scheduler

    def before_train(self):
        self._optimizer = self._optimizer or self.trainer.optimizer
        if isinstance(self.scheduler, ParamScheduler):
            self._scheduler = LRMultiplier(
                self._optimizer, self.scheduler, self.trainer.max_iter, last_iter=self.trainer.iter - 1
            )
        self._best_param_group_id = self.get_best_param_group_id(self._optimizer)

    @staticmethod
    def get_best_param_group_id(optimizer: torch.optim.Optimizer) -> int:
        """The parameter group whose learning rate is logged: the one with most parameters, or, if every group has one
        parameter, the first with the most frequent learning rate.
        """
        groups = optimizer.param_groups
        sizes = [len(group["params"]) for group in groups]
        if max(sizes) > 1:
            return sizes.index(max(sizes))
        rates = [group["lr"] for group in groups]
        return rates.index(Counter(rates).most_common(1)[0][0])

    def after_step(self):
        lr = self._optimizer.param_groups[self._best_param_group_id]["lr"]
        self.trainer.storage.put_scalar("lr", lr, smoothing_hint=False)
        self.scheduler.step()

    def state_dict(self):
        scheduler = self.scheduler
        return scheduler.state_dict() if isinstance(scheduler, _TorchScheduler) else {}

    def load_state_dict(self, state_dict):
        # A ParamScheduler has no state: before_train derives it from the iteration.
        if isinstance(self.scheduler, _TorchScheduler):
            logger.info("Taking the scheduler's state from the checkpoint")
            self.scheduler.load_state_dict(state_dict)


class TorchProfiler(HookBase):
    """Runs `torch.profiler.profile` over single iterations.

    Example::

        hooks.TorchProfiler(lambda trainer: 10 <= trainer.iter < 13, cfg.OUTPUT_DIR)
    """

    def __init__(
        self,
        enable_predicate: Callable[[Any], bool],
        output_dir: str,
        *,
        activities: Iterable | None = None,
        save_tensorboard: bool = True,
    ):
        """Args:
        enable_predicate: given the trainer before each iteration, tells whether to profile this one.
        output_dir: where results go.
        activities: as in `torch.profiler.profile`.
        save_tensorboard: write for TensorBoard, in ``output_dir/log/profiler-tensorboard-iter<N>``; else write a
            Chrome trace, ``output_dir/profiler-trace-iter<N>.json``.
        """
        self._enable_predicate = enable_predicate
        self._output_dir = output_dir
        self._activities = activities
        self._save_tensorboard = save_tensorboard
        self._profiler: Any = None

    def _make_profiler(self):
        on_trace_ready = None
        if self._save_tensorboard:
            folder = os.path.join(self._output_dir, "log", f"profiler-tensorboard-iter{self.trainer.iter}")
            on_trace_ready = torch.profiler.tensorboard_trace_handler(folder, f"worker{comm.get_rank()}")
        return torch.profiler.profile(
            on_trace_ready=on_trace_ready,
            activities=self._activities,
            with_flops=True,
            with_stack=True,
            profile_memory=True,
            record_shapes=True,
        )

    def before_step(self):
        if self._enable_predicate(self.trainer):
            self._profiler = self._make_profiler()
            self._profiler.__enter__()

    def after_step(self):
        if self._profiler is None:
            return
        profiler, self._profiler = self._profiler, None
        profiler.__exit__(None, None, None)
        if self._save_tensorboard:
            return
        PathManager.mkdirs(self._output_dir)
        target = os.path.join(self._output_dir, f"profiler-trace-iter{self.trainer.iter}.json")
        # torch writes to local files only; output_dir may be any place that PathManager knows.
        with tempfile.TemporaryDirectory(prefix="detectron2_profiler") as folder:
            local = os.path.join(folder, "trace.json")
            profiler.export_chrome_trace(local)
            with open(local) as source, PathManager.open(target, "w") as sink:
                shutil.copyfileobj(source, sink)


class AutogradProfiler(TorchProfiler):
    """The older `torch.autograd.profiler.profile`; writes Chrome traces. :class:`TorchProfiler` replaces it."""

    def __init__(self, enable_predicate: Callable[[Any], bool], output_dir: str, *, use_cuda: bool = True):
        """`use_cuda`: time CUDA kernels too, where there is a GPU."""
        warnings.warn("AutogradProfiler is deprecated: use TorchProfiler", stacklevel=2)
        super().__init__(enable_predicate, output_dir, save_tensorboard=False)
        self._use_cuda = use_cuda

    def _make_profiler(self):
        on_gpu = self._use_cuda and torch.cuda.is_available()
        return torch.autograd.profiler.profile(use_device="cuda" if on_gpu else None)


class EvalHook(HookBase):
    """Evaluates every `eval_period` iterations and at the end, and stores the results as scalars."""

    def __init__(self, eval_period: int, eval_function: Callable[[], Any], eval_after_train: bool = True):
        """Args:
        eval_period: iterations between evaluations; 0 evaluates at the end only.
        eval_function: returns metrics as a nested dict of numbers, stored as ``outer/inner``, or nothing. All
            processes must have this hook; those that shall not evaluate get a function that does nothing.
        eval_after_train: evaluate when training was completed. A failed training is not evaluated.
        """
        self._period = eval_period
        self._func = eval_function
        self._eval_after_train = eval_after_train

    def after_step(self):
        # The last iteration is evaluated in after_train.
        if _due(self.trainer.iter, self._period) and self.trainer.iter + 1 != self.trainer.max_iter:
            self._evaluate()

    def after_train(self):
        if self._eval_after_train and self.trainer.iter + 1 >= self.trainer.max_iter:
            self._evaluate()
        # The function is often a closure over the trainer, which holds this hook.
        del self._func

    def _evaluate(self) -> None:
        if results := self._func():
            assert isinstance(results, dict), f"eval_function must return a dict, got {results!r}"
            scalars = {}
            for name, value in flatten_results_dict(results).items():
                try:
                    scalars[name] = float(value)
                except Exception as error:
                    raise ValueError(
                        f"[EvalHook] eval_function must return a nested dict of numbers, but {name!r} is {value!r}"
                    ) from error
            self.trainer.storage.put_scalars(**scalars, smoothing_hint=False)
        # Processes take different times to evaluate; the next iteration starts in all of them at once.
        comm.synchronize()


class PreciseBN(HookBase):
    """Replaces the running averages of batch norm by the statistics of the current weights over `num_iter` batches,
    every `period` iterations and after the last one.
    """

    def __init__(self, period: int, model: torch.nn.Module, data_loader: Iterable, num_iter: int):
        """Args:
        period: 0 updates after the last iteration only.
        model: its batch-norm layers that are in training mode are updated; without any, the hook does nothing.
        data_loader: gives the batches; one iterator over it serves the whole training.
        num_iter: batches for one update.
        """
        self._period = period
        self._model = model
        self._data_loader = data_loader
        self._num_iter = num_iter
        self._data_iter = None
        self._disabled = len(get_bn_modules(model)) == 0
        if self._disabled:
            logger.info("PreciseBN does nothing: the model has no batch norm in training mode")

    def after_step(self):
        if _due(self.trainer.iter, self._period) or self.trainer.iter + 1 == self.trainer.max_iter:
            self.update_stats()

    def update_stats(self) -> None:
        """Update the statistics now."""
        if self._disabled:
            return
        if self._data_iter is None:
            self._data_iter = iter(self._data_loader)
        logger.info(f"Precise BN: statistics over {self._num_iter} batches. They depend on which batches come")
        # What the model stores meanwhile is not part of the training: it goes to a storage that is thrown away.
        with EventStorage():
            update_bn_stats(self._model, self._batches(), self._num_iter)

    def _batches(self):
        for count in itertools.count(1):
            if count % 100 == 0:
                logger.info(f"Precise BN: {count} of {self._num_iter} batches")
            yield next(self._data_iter)


class TorchMemoryStats(HookBase):
    """Logs CUDA memory every `period` iterations, `max_runs` times; the last time with torch's full summary."""

    def __init__(self, period: int = 20, max_runs: int = 10):
        self._period = period
        self._max_runs = max_runs
        self._runs = 0

    def after_step(self):
        if self._runs >= self._max_runs or not torch.cuda.is_available():
            return
        if not (_due(self.trainer.iter, self._period) or self.trainer.iter == self.trainer.max_iter - 1):
            return
        amounts = {
            "max_reserved_mem": torch.cuda.max_memory_reserved(),
            "reserved_mem": torch.cuda.memory_reserved(),
            "max_allocated_mem": torch.cuda.max_memory_allocated(),
            "allocated_mem": torch.cuda.memory_allocated(),
        }
        text = "  ".join(f"{name}: {num_bytes / 2**20:.0f}MB" for name, num_bytes in amounts.items())
        logger.info(f" iter: {self.trainer.iter}  {text}")
        self._runs += 1
        if self._runs == self._max_runs:
            logger.info("\n" + torch.cuda.memory_summary())
        torch.cuda.reset_peak_memory_stats()
