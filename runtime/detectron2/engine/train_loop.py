"""The training loop, its hook interface, and the two standard steps: full and mixed precision."""

import logging
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from detectron2.utils import comm
from detectron2.utils.events import EventStorage, get_event_storage

__all__ = ["HookBase", "TrainerBase", "SimpleTrainer", "AMPTrainer"]

logger = logging.getLogger(__name__)


class HookBase:
    """Something to do at fixed points of a training, registered with :meth:`TrainerBase.register_hooks`.

    A training of N iterations calls `before_train` once, then N times `before_step`, the trainer's step (within it
    `after_backward`) and `after_step`, and finally `after_train`, also when an exception ended the loop.

    Costly work belongs in `after_step`: timers measure from `before_step` to `after_step`.

    Attributes:
        trainer: weak proxy of the trainer, set on registration. It gives access to `iter`, `max_iter`, `storage`, and
            to what the concrete trainer has (model, optimizer, cfg).
    """

    trainer: "TrainerBase" = None

    def before_train(self):
        """Called once, before the first iteration."""

    def after_train(self):
        """Called once, at the end. `trainer.iter == trainer.max_iter` tells that the training was completed."""

    def before_step(self):
        """Called before each iteration."""

    def after_backward(self):
        """Called in each iteration when the gradients are there and the weights not yet updated."""

    def after_step(self):
        """Called after each iteration."""

    def state_dict(self):
        """What to store in a checkpoint; a hook that returns something must have `load_state_dict` too."""
        return {}


class TrainerBase:
    """A loop over :meth:`run_step` with hooks; nothing is assumed about model, data or optimizer.

    Attributes:
        iter: the current iteration; after a completed training, `max_iter`.
        start_iter, max_iter: the range of the loop; `max_iter` is excluded.
        storage: the EventStorage of the running training.
    """

    def __init__(self) -> None:
        self._hooks: list[HookBase] = []
        self.iter: int = 0
        self.start_iter: int = 0
        self.max_iter: int
        self.storage: EventStorage

    def register_hooks(self, hooks: Iterable[HookBase | None]) -> None:
        """Append hooks, which then run in the order of registration. None entries are skipped."""
        for hook in hooks:
            if hook is None:
                continue
            assert isinstance(hook, HookBase), f"A hook must derive from HookBase, got {type(hook).__name__}"
            # A strong reference would make a cycle, and keep the model in memory until the garbage collector runs.
            hook.trainer = weakref.proxy(self)
            self._hooks.append(hook)

    def train(self, start_iter: int, max_iter: int):
        """Run the iterations from `start_iter` up to, not including, `max_iter`."""
        logger.info(f"Starting training from iteration {start_iter}")
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        self.storage = EventStorage(start_iter)
        with self.storage:
            try:
                self._run_steps(start_iter, max_iter)
            except Exception:
                logger.exception(f"Training stopped by an exception in iteration {self.iter}:")
                raise
            finally:
                self.after_train()

    def _run_steps(self, start_iter: int, max_iter: int) -> None:
        self.before_train()
        for self.iter in range(start_iter, max_iter):
            for part in (self.before_step, self.run_step, self.after_step):
                part()
        # Only a loop that ran to its end gets here, so after_train can tell success from failure.
        self.iter += 1

    def before_train(self):
        for hook in self._hooks:
            hook.before_train()

    def after_train(self):
        self.storage.iter = self.iter
        for hook in self._hooks:
            hook.after_train()

    def before_step(self):
        # Whatever is stored during the step carries the trainer's iteration.
        self.storage.iter = self.iter
        for hook in self._hooks:
            hook.before_step()

    def after_backward(self):
        for hook in self._hooks:
            hook.after_backward()

    def after_step(self):
        for hook in self._hooks:
            hook.after_step()

    def run_step(self):
        """One iteration; to be implemented."""
        raise NotImplementedError(f"{type(self).__name__} does not implement run_step")

    def state_dict(self):
        """The iteration, and under ``hooks`` the state of each stateful hook by its class name. Of several stateful
        hooks of one class, only the first is stored.
        """
        state: dict[str, Any] = {"iteration": self.iter}
        by_class: dict[str, Any] = {}
        for hook in self._hooks:
            hook_state = hook.state_dict()
            if hook_state:
                by_class.setdefault(type(hook).__qualname__, hook_state)
        if by_class:
            state["hooks"] = by_class
        return state

    def load_state_dict(self, state_dict):
        """Take over what :meth:`state_dict` gave; states of hooks that are not here are skipped with a warning."""
        self.iter = state_dict["iteration"]
        for class_name, hook_state in state_dict.get("hooks", {}).items():
            hook = next((h for h in self._hooks if type(h).__qualname__ == class_name), None)
            if hook is None:
                logger.warning(
                    f"The checkpoint has a state for the hook {class_name}, which is not registered: skipped"
                )
            else:
                hook.load_state_dict(hook_state)


class SimpleTrainer(TrainerBase):
    """One model, one optimizer, one data source: load a batch, forward, backward, update.

    Checkpoints, evaluation, learning rate and logging are left to hooks. For another kind of step, derive from this
    class or from :class:`TrainerBase` and write `run_step`.

    The model is put in training mode here, once. Every step writes to the event storage: ``data_time`` (seconds, the
    maximum over processes), ``rank_data_time``, ``total_loss``, and each loss by its name (means over processes).
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable,
        optimizer: torch.optim.Optimizer,
        gather_metric_period: int = 1,
        zero_grad_before_forward: bool = False,
        async_write_metrics: bool = False,
    ):
        """Args:
        model: takes a batch of `data_loader`, returns a dict of scalar losses or one scalar loss.
        data_loader: an endless iterable of batches.
        optimizer: updates the model's parameters. Clipping and accumulation are done by wrapping it.
        gather_metric_period: losses are collected from all processes and stored every so many iterations.
        zero_grad_before_forward: clear the gradients before the forward pass instead of before the backward.
        async_write_metrics: collect and store the losses in a thread. A failure there (a loss that is not finite)
            is raised by one of the next steps, or at the end of the training.
        """
        super().__init__()
        model.train()
        self.model = model
        self.data_loader = data_loader
        self.optimizer = optimizer
        self.gather_metric_period = gather_metric_period
        self.zero_grad_before_forward = zero_grad_before_forward
        self.async_write_metrics = async_write_metrics
        # One worker keeps the writes in order.
        self.concurrent_executor = ThreadPoolExecutor(max_workers=1)
        self._pending_writes: deque[Future] = deque()
        self._data_loader_iter_obj: Iterator | None = None

    @property
    def _data_loader_iter(self) -> Iterator:
        # Made on first use: it may start worker processes.
        if self._data_loader_iter_obj is None:
            self._data_loader_iter_obj = iter(self.data_loader)
        return self._data_loader_iter_obj

    def run_step(self):
        """One iteration of standard training."""
        assert self.model.training, f"{type(self).__name__}: the model is in eval mode, somebody called model.eval()"
        begin = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - begin

        if self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        with self._forward_context():
            loss_dict = self.model(data)
            if isinstance(loss_dict, torch.Tensor):
                loss_dict = {"total_loss": loss_dict}
            total = sum(loss_dict.values())
        if not self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        self._backward(total)
        self.after_backward()

        # Before the update: a loss that is not finite must not reach the weights.
        if self.async_write_metrics:
            self._raise_failed_writes()
            self._pending_writes.append(
                self.concurrent_executor.submit(self._write_metrics, loss_dict, data_time, iter=self.iter)
            )
        else:
            self._write_metrics(loss_dict, data_time)
        self._update()

    def _forward_context(self) -> AbstractContextManager:
        return nullcontext()

    def _backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def _update(self) -> None:
        self.optimizer.step()

    def after_train(self):
        # Late metrics must be stored before the hooks write and close their files.
        self.concurrent_executor.shutdown(wait=True)
        self.concurrent_executor = ThreadPoolExecutor(max_workers=1)
        super().after_train()
        self._raise_failed_writes()

    def _raise_failed_writes(self) -> None:
        while self._pending_writes and self._pending_writes[0].done():
            self._pending_writes.popleft().result()

    def reset_data_loader(self, data_loader_builder: Callable[[], Iterable]) -> None:
        """Replace the data loader by `data_loader_builder()`, after letting go of the old one."""
        self.data_loader = self._data_loader_iter_obj = None
        self.data_loader = data_loader_builder()

    def _write_metrics(
        self, loss_dict: Mapping[str, torch.Tensor], data_time: float, prefix: str = "", iter: int | None = None
    ) -> None:
        """Store the losses if this iteration is one of the gathering period."""
        iteration = self.iter if iter is None else iter
        if (iteration + 1) % self.gather_metric_period == 0:
            SimpleTrainer.write_metrics(loss_dict, data_time, iteration, prefix)

    @staticmethod
    def write_metrics(loss_dict: Mapping[str, torch.Tensor], data_time: float, cur_iter: int, prefix: str = "") -> None:
        """Collect losses of all processes and store them in the current event storage.

        Args:
            loss_dict: scalar losses, the same names in every process.
            data_time: seconds that this process waited for its batch.
            cur_iter: the iteration they belong to.
            prefix: put before the name ``total_loss``.

        Raises:
            FloatingPointError: in the main process, if the sum of the losses is not finite.
        """
        storage = get_event_storage()
        storage.put_scalar("rank_data_time", data_time, cur_iter=cur_iter)

        per_rank = comm.gather((data_time, _to_floats(loss_dict)))
        if not comm.is_main_process():
            return
        # The slowest loader holds up everybody, so the maximum is what a step pays.
        storage.put_scalar("data_time", max(seconds for seconds, _ in per_rank), cur_iter=cur_iter)
        means = {name: float(np.mean([losses[name] for _, losses in per_rank])) for name in per_rank[0][1]}
        total = sum(means.values())
        if not np.isfinite(total):
            raise FloatingPointError(f"The loss of iteration {cur_iter} is not finite. loss_dict = {means}")
        storage.put_scalar(f"{prefix}total_loss", total, cur_iter=cur_iter)
        if len(means) > 1:
            storage.put_scalars(cur_iter=cur_iter, **means)

    def state_dict(self):
        """Adds ``optimizer`` to the state of the base class."""
        return {**super().state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])


class AMPTrainer(SimpleTrainer):
    """:class:`SimpleTrainer` under `torch.autocast`, with a gradient scaler.

    On a CPU the default float16 is replaced by bfloat16, the reduced precision that CPUs compute in.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable,
        optimizer: torch.optim.Optimizer,
        gather_metric_period: int = 1,
        zero_grad_before_forward: bool = False,
        grad_scaler: "torch.amp.GradScaler | None" = None,
        precision: torch.dtype = torch.float16,
        log_grad_scaler: bool = False,
        async_write_metrics: bool = False,
    ):
        """Args:
        model, data_loader, optimizer, gather_metric_period, zero_grad_before_forward, async_write_metrics:
            as in :class:`SimpleTrainer`. A model spread over several devices by one process is refused.
        grad_scaler: the scaler to use; None makes one with torch's defaults for the model's device.
        precision: the dtype of autocast.
        log_grad_scaler: store the scale as ``[metric]grad_scaler`` in every iteration.
        """
        several = isinstance(model, DataParallel) or (
            isinstance(model, DistributedDataParallel) and len(model.device_ids or ()) > 1
        )
        assert not several, "AMPTrainer takes one device per process: start one process for each GPU"
        super().__init__(
            model, data_loader, optimizer, gather_metric_period, zero_grad_before_forward, async_write_metrics
        )
        parameter = next(model.parameters(), None)
        default_type = "cuda" if torch.cuda.is_available() else "cpu"
        self._device_type = default_type if parameter is None else parameter.device.type
        if self._device_type == "cpu" and precision == torch.float16:
            logger.warning("Mixed precision on a CPU: computing in bfloat16 instead of float16")
            precision = torch.bfloat16
        self.grad_scaler = torch.amp.GradScaler(self._device_type) if grad_scaler is None else grad_scaler
        self.precision = precision
        self.log_grad_scaler = log_grad_scaler

    def _forward_context(self) -> AbstractContextManager:
        return torch.autocast(self._device_type, dtype=self.precision)

    def _backward(self, loss: torch.Tensor) -> None:
        self.grad_scaler.scale(loss).backward()
        if self.log_grad_scaler:
            get_event_storage().put_scalar("[metric]grad_scaler", self.grad_scaler.get_scale())

    def _update(self) -> None:
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def state_dict(self):
        """Adds ``grad_scaler`` to the state of :class:`SimpleTrainer`."""
        return {**super().state_dict(), "grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        self.grad_scaler.load_state_dict(state_dict["grad_scaler"])


def _to_floats(losses: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """Scalars as Python numbers. Those of one dtype and device are fetched at once: one wait for the GPU, not many."""
    values = [loss.detach().reshape(()) for loss in losses.values()]
    if len({(value.dtype, value.device) for value in values}) == 1:
        return dict(zip(losses, torch.stack(values).tolist(), strict=True))
    return {name: value.item() for name, value in zip(losses, values, strict=True)}
