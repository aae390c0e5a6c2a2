"""The evaluator interface, and the loop that feeds evaluators with a model's outputs."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableSequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import torch
from torch import nn

from detectron2.utils.comm import get_world_size, is_main_process
from detectron2.utils.logger import log_every_n_seconds


class DatasetEvaluator:
    """Collects what a model gives for a dataset, and makes numbers of it in the end."""

    def reset(self) -> None:
        """Forget everything: a new round begins."""

    def process(self, inputs: list[Any], outputs: list[Any]) -> None:
        """Take one batch.

        Args:
            inputs: what the model was called with, one entry per image.
            outputs: what it returned, in the same order.
        """

    def evaluate(self) -> Mapping[str, Any] | None:
        """The results of all batches since :meth:`reset`: ``{task: {metric: score}}``, or None where there are none,
        as in all but the main process.
        """


class DatasetEvaluators(DatasetEvaluator):
    """Several evaluators as one; each of them sees every batch."""

    def __init__(self, evaluators: Iterable[DatasetEvaluator]):
        self._evaluators = evaluators

    def reset(self) -> None:
        for evaluator in self._evaluators:
            evaluator.reset()

    def process(self, inputs: list[Any], outputs: list[Any]) -> None:
        for evaluator in self._evaluators:
            evaluator.process(inputs, outputs)

    def evaluate(self) -> OrderedDict[str, Any]:
        merged: OrderedDict[str, Any] = OrderedDict()
        for evaluator in self._evaluators:
            result = evaluator.evaluate()
            if result is None or not is_main_process():
                continue
            for task, scores in result.items():
                assert task not in merged, f"Two evaluators give results for the same key {task!r}"
                merged[task] = scores
        return merged


class _Stopwatch:
    """Adds up the seconds spent in named phases of the loop."""

    def __init__(self):
        self.restart()

    def restart(self) -> None:
        self.began = self._last = time.perf_counter()
        self.spent = {"data": 0.0, "compute": 0.0, "eval": 0.0}

    def lap(self, phase: str) -> None:
        now = time.perf_counter()
        self.spent[phase] += now - self._last
        self._last = now

    @property
    def total(self) -> float:
        return time.perf_counter() - self.began


def inference_on_dataset(
    model: Callable[[Any], Any],
    data_loader: Iterable[Any],
    evaluator: DatasetEvaluator | list[DatasetEvaluator] | None,
    callbacks: dict[str, Callable[[], Any]] | None = None,
) -> Mapping[str, Any]:
    """Run a model over a dataset without gradients, evaluate it, and log how long loading, model and evaluator take.

    Args:
        model: called with each batch. A module is put in eval mode meanwhile.
        data_loader: must have a length.
        evaluator: one, a list, or None to measure the speed alone.
        callbacks: functions to call ``on_start``, ``before_inference``, ``after_inference`` (both for every batch)
            and ``on_end``.

    Returns:
        What ``evaluator.evaluate()`` returns; an empty dict where it returns None.
    """
    logger = logging.getLogger(__name__)
    n_batches = len(data_loader)  # type: ignore[arg-type]
    logger.info(f"Start inference on {n_batches} batches")
    if evaluator is None:
        evaluator = DatasetEvaluators([])
    elif isinstance(evaluator, MutableSequence):
        evaluator = DatasetEvaluators(evaluator)
    evaluator.reset()

    def call(event: str) -> None:
        if callbacks and event in callbacks:
            callbacks[event]()

    on_gpu = torch.cuda.is_available()
    warmup = max(min(5, n_batches - 1), 0)  # the first batches are slow and would spoil the averages
    watch = _Stopwatch()
    with inference_context(model) if isinstance(model, nn.Module) else nullcontext(), torch.no_grad():
        call("on_start")
        for i, inputs in enumerate(data_loader):
            watch.lap("data")
            if i == warmup:
                watch.restart()
            call("before_inference")
            outputs = model(inputs)
            call("after_inference")
            if on_gpu:
                torch.cuda.synchronize()
            watch.lap("compute")
            evaluator.process(inputs, outputs)
            watch.lap("eval")

            measured = i + 1 - (warmup if i >= warmup else 0)
            data, compute, evaluation = (seconds / measured for seconds in watch.spent.values())
            if i >= 2 * warmup or compute > 5:
                overall = watch.total / measured
                eta = timedelta(seconds=int(overall * (n_batches - i - 1)))
                log_every_n_seconds(
                    logging.INFO,
                    f"Inference done {i + 1}/{n_batches}. Dataloading: {data:.4f} s/iter. "
                    f"Inference: {compute:.4f} s/iter. Eval: {evaluation:.4f} s/iter. "
                    f"Total: {overall:.4f} s/iter. ETA={eta}",
                    n=5,
                )
        call("on_end")

    # taken before the evaluator waits for the other processes; scripts grep for these lines
    for label, seconds, shown in (
        ("time", watch.total, timedelta(seconds=watch.total)),
        ("pure compute time", watch.spent["compute"], timedelta(seconds=int(watch.spent["compute"]))),
    ):
        logger.info(
            f"Total inference {label}: {shown} ({seconds / max(n_batches - warmup, 1):.6f} s / iter per device, "
            f"on {get_world_size()} devices)"
        )
    results = evaluator.evaluate()
    return {} if results is None else results


@contextmanager
def inference_context(model: nn.Module) -> Iterator[None]:
    """Put a module in eval mode, and back into its former mode at the end, also after an error."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
