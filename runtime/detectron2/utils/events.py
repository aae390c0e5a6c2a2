"""Storage of training metrics by iteration, and the writers that put them into json, tensorboard and the log."""

import datetime
import json
import logging
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import torch
from fvcore.common.history_buffer import HistoryBuffer

from detectron2.utils.file_io import PathManager

__all__ = [
    "get_event_storage",
    "has_event_storage",
    "EventWriter",
    "JSONWriter",
    "TensorboardXWriter",
    "CommonMetricPrinter",
    "EventStorage",
]

# Innermost `with EventStorage(...)` last.
_CURRENT_STORAGE_STACK: list["EventStorage"] = []


def get_event_storage() -> "EventStorage":
    """The storage of the innermost ``with EventStorage(...)`` block; AssertionError outside of any."""
    assert has_event_storage(), "get_event_storage() has to be called inside a 'with EventStorage(...)' block."
    return _CURRENT_STORAGE_STACK[-1]


def has_event_storage() -> bool:
    """Whether the code runs inside a ``with EventStorage(...)`` block."""
    return len(_CURRENT_STORAGE_STACK) > 0


class EventStorage:
    """Keeps the scalars, and the images and histograms not yet written, of a training run.

    Use it as a context manager; :func:`get_event_storage` then finds it from anywhere, so that a model can log.
    """

    def __init__(self, start_iter: int = 0):
        self._iter = start_iter
        self._current_prefix = ""
        self._history: dict[str, HistoryBuffer] = defaultdict(HistoryBuffer)
        self._latest_scalars: dict[str, tuple[float, int]] = {}
        self._smoothing_hints: dict[str, bool] = {}
        self._vis_data: list[tuple[str, torch.Tensor | np.ndarray, int]] = []
        self._histograms: list[dict[str, Any]] = []

    def __enter__(self) -> "EventStorage":
        _CURRENT_STORAGE_STACK.append(self)
        return self

    def __exit__(self, exc_type, exc_val, exc_tb) -> None:
        assert _CURRENT_STORAGE_STACK[-1] is self, "EventStorage blocks must be left in the reverse order of entry."
        _CURRENT_STORAGE_STACK.pop()

    @property
    def iter(self) -> int:
        """The current iteration, to which new data belongs; a trainer keeps it equal to its own."""
        return self._iter

    @iter.setter
    def iter(self, val: int) -> None:
        self._iter = int(val)

    @property
    def iteration(self) -> int:
        """The same as `iter`, for old code."""
        return self._iter

    def step(self) -> None:
        """Go on to the next iteration; setting `iter` does the same."""
        self._iter += 1

    @contextmanager
    def name_scope(self, name: str) -> Iterator[None]:
        """Put ``name/`` in front of the names of the scalars stored inside the block."""
        outer = self._current_prefix
        self._current_prefix = name.rstrip("/") + "/"
        try:
            yield
        finally:
            self._current_prefix = outer

    def put_scalar(self, name: str, value: Any, smoothing_hint: bool = True, cur_iter: int | None = None) -> None:
        """Store a number.

        Args:
            name: what it is; the prefix of the `name_scope` is added.
            value: a number or a tensor of one element.
            smoothing_hint: whether it is noisy and writers should smooth it; must not change for a name.
            cur_iter: its iteration, by default the current one.
        """
        name = self._current_prefix + name
        value = float(value)
        when = self._iter if cur_iter is None else cur_iter
        assert self._smoothing_hints.setdefault(name, smoothing_hint) == smoothing_hint, (
            f"Scalar {name!r} was stored with smoothing_hint={not smoothing_hint} before."
        )
        self._history[name].update(value, when)
        # Last: a trainer may store from a thread, and readers start from here.
        self._latest_scalars[name] = (value, when)

    def put_scalars(self, *, smoothing_hint: bool = True, cur_iter: int | None = None, **kwargs: Any) -> None:
        """Store several numbers: ``put_scalars(loss=1.0, accuracy=0.5)``."""
        for name, value in kwargs.items():
            self.put_scalar(name, value, smoothing_hint=smoothing_hint, cur_iter=cur_iter)

    def put_image(self, img_name: str, img_tensor: torch.Tensor | np.ndarray) -> None:
        """Store an RGB image (3, H, W), uint8 in [0, 255] or float in [0, 1], for tensorboard."""
        self._vis_data.append((img_name, img_tensor, self._iter))

    def put_histogram(self, hist_name: str, hist_tensor: torch.Tensor, bins: int = 1000) -> None:
        """Store the histogram of all elements of a tensor, between its extremes, for tensorboard."""
        low, high = hist_tensor.min().item(), hist_tensor.max().item()
        edges = torch.linspace(low, high, steps=bins + 1, dtype=torch.float32)
        # The arguments of SummaryWriter.add_histogram_raw.
        self._histograms.append(
            {
                "tag": hist_name,
                "global_step": self._iter,
                "min": low,
                "max": high,
                "num": len(hist_tensor),
                "sum": float(hist_tensor.sum()),
                "sum_squares": float((hist_tensor**2).sum()),
                "bucket_limits": edges[1:].tolist(),
                "bucket_counts": torch.histc(hist_tensor, bins=bins).tolist(),
            }
        )

    def history(self, name: str) -> HistoryBuffer:
        """All values of a scalar; KeyError if it was never stored."""
        if name not in self._history:
            raise KeyError(f"No scalar {name!r} was stored.")
        return self._history[name]

    def histories(self) -> dict[str, HistoryBuffer]:
        """All values of all scalars, by name."""
        return self._history

    def latest(self) -> dict[str, tuple[float, int]]:
        """The last value of each scalar with its iteration."""
        return self._latest_scalars

    def latest_with_smoothing_hint(self, window_size: int = 20) -> dict[str, tuple[float, int]]:
        """Like :meth:`latest`, with the median over the last `window_size` iterations of those to be smoothed."""
        smoothed = {}
        for name, (value, when) in list(self._latest_scalars.items()):
            if self._smoothing_hints[name]:
                value = self._history[name].median(self.count_samples(name, window_size))
            smoothed[name] = (value, when)
        return smoothed

    def count_samples(self, name: str, window_size: int = 20) -> int:
        """How many values of a scalar belong to the `window_size` iterations up to its last one."""
        values = self._history[name].values()
        first = values[-1][1] - window_size + 1 if values else 0
        for count, (_, when) in enumerate(reversed(values)):
            if when < first:
                return count
        return len(values)

    def smoothing_hints(self) -> dict[str, bool]:
        """Whether each scalar should be smoothed, by name."""
        return self._smoothing_hints

    def clear_images(self) -> None:
        """Forget the images; for the writer that has written them."""
        self._vis_data = []

    def clear_histograms(self) -> None:
        """Forget the histograms; for the writer that has written them."""
        self._histograms = []


class EventWriter:
    """Base of the objects that take what is new from the current :class:`EventStorage` and put it somewhere."""

    def write(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Release files; nothing by default."""


class _ScalarWriter(EventWriter):
    """Knows which scalars were written already."""

    def __init__(self, window_size: int):
        self._window_size = window_size
        self._last_write = -1

    def _take_new_scalars(self) -> list[tuple[str, float, int]]:
        """(name, value, iteration) of the scalars stored after the last call."""
        latest = get_event_storage().latest_with_smoothing_hint(self._window_size)
        new = [(name, value, when) for name, (value, when) in latest.items() if when > self._last_write]
        self._last_write = max([self._last_write, *(when for _, _, when in new)])
        return new


class JSONWriter(_ScalarWriter):
    """Appends one line of json per iteration to a file: the scalars by name, and "iteration"."""

    def __init__(self, json_file: str, window_size: int = 20):
        """Args:
        json_file: the file; what it holds stays.
        window_size: iterations over which noisy scalars are smoothed by the median.
        """
        super().__init__(window_size)
        self._file_handle = PathManager.open(json_file, "a")

    def write(self) -> None:
        lines: dict[int, dict[str, float]] = defaultdict(dict)
        for name, value, when in self._take_new_scalars():
            lines[when][name] = value
        for when, scalars in lines.items():
            self._file_handle.write(json.dumps({**scalars, "iteration": when}, sort_keys=True) + "\n")
        self._file_handle.flush()
        if hasattr(self._file_handle, "fileno"):
            os.fsync(self._file_handle.fileno())

    def close(self) -> None:
        self._file_handle.close()


class TensorboardXWriter(_ScalarWriter):
    """Writes scalars, images and histograms for tensorboard; images and histograms are then forgotten."""

    def __init__(self, log_dir: str, window_size: int = 20, **kwargs: Any):
        """Args:
        log_dir: folder of the event files.
        window_size: iterations over which noisy scalars are smoothed by the median.
        kwargs: further arguments of ``torch.utils.tensorboard.SummaryWriter``.
        """
        super().__init__(window_size)
        self._writer_args = {"log_dir": log_dir, **kwargs}

    @cached_property
    def _writer(self):
        # Imported, and the file opened, only when there is something to write.
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(**self._writer_args)

    def write(self) -> None:
        storage = get_event_storage()
        for name, value, when in self._take_new_scalars():
            self._writer.add_scalar(name, value, when)
        if storage._vis_data:
            for name, image, when in storage._vis_data:
                self._writer.add_image(name, image, when)
            storage.clear_images()
        if storage._histograms:
            for histogram in storage._histograms:
                self._writer.add_histogram_raw(**histogram)
            storage.clear_histograms()

    def close(self) -> None:
        if "_writer" in vars(self):
            self._writer.close()


class CommonMetricPrinter(EventWriter):
    """Logs one line: time left, iteration, all scalars with "loss" or "[metric]" in their name, times, learning rate
    and peak GPU memory. Also stores the time left as "eta_seconds".
    """

    def __init__(self, max_iter: int | None = None, window_size: int = 20):
        """Args:
        max_iter: iterations of the whole training; None prints no time left.
        window_size: iterations over which losses are smoothed by the median.
        """
        self.logger = logging.getLogger("detectron2.utils.events")
        self._max_iter = max_iter
        self._window_size = window_size
        # Iteration and clock of the last line, to estimate the time left when "time" is not stored.
        self._last_write: tuple[int, float] | None = None

    def write(self) -> None:
        storage = get_event_storage()
        if storage.iter == self._max_iter:
            # Training is over: what was stored since is evaluation, not progress.
            return
        histories = storage.histories()
        eta = self._estimate_time_left(storage)
        head = (f" eta: {eta}  " if eta else " ") + f"iter: {storage.iter}"
        times = []
        if "time" in histories:
            times += [
                f"time: {histories['time'].global_avg():.4f}",
                f"last_time: {histories['time'].latest():.4f}",
            ]
        if "data_time" in histories:
            data_time = histories["data_time"]
            average = data_time.avg(storage.count_samples("data_time", self._window_size))
            times += [f"data_time: {average:.4f}", f"last_data_time: {data_time.latest():.4f}"]
        rate = f"lr: {histories['lr'].latest():.5g}" if "lr" in histories else "lr: N/A"
        line = [head, self._medians(storage, "loss"), self._medians(storage, "[metric]"), "  ".join(times), rate]
        if torch.cuda.is_available():
            line.append(f"max_mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}M")
        self.logger.info("  ".join(part for part in line if part))

    def _medians(self, storage: EventStorage, mark: str) -> str:
        return "  ".join(
            f"{name}: {history.median(storage.count_samples(name, self._window_size)):.4g}"
            for name, history in storage.histories().items()
            if mark in name
        )

    def _estimate_time_left(self, storage: EventStorage) -> str | None:
        if self._max_iter is None:
            return None
        steps_left = self._max_iter - storage.iter - 1
        if "time" in storage.histories():
            seconds = storage.history("time").median(1000) * steps_left
            storage.put_scalar("eta_seconds", seconds, smoothing_hint=False)
            return str(datetime.timedelta(seconds=int(seconds)))
        now = time.perf_counter()
        before, self._last_write = self._last_write, (storage.iter, now)
        if before is None or before[0] == storage.iter:
            return None
        seconds = (now - before[1]) / (storage.iter - before[0]) * steps_left
        return str(datetime.timedelta(seconds=int(seconds)))
