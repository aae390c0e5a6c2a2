"""Speed of the stages of a data loader, to see which of them limits it."""

import itertools
import logging
import time
from collections.abc import Callable, Iterable

import numpy as np
from torch.utils.data import Dataset
from tqdm import trange

from detectron2.utils import comm

from .build import build_batch_data_loader
from .common import DatasetFromList, MapDataset
from .samplers import TrainingSampler

logger = logging.getLogger(__name__)


class _EmptyMapDataset(Dataset):
    """Does the work of a data set and gives nothing that would have to travel between processes."""

    def __init__(self, dataset):
        self.ds = dataset

    def __len__(self) -> int:
        return len(self.ds)

    def __getitem__(self, idx: int) -> list[int]:
        self.ds[idx]
        return [0]


def iter_benchmark(
    iterator: Iterable, num_iter: int, warmup: int = 5, max_time_seconds: float = 60
) -> tuple[float, list[float]]:
    """Time the steps of an iterator.

    Args:
        iterator: iterator or iterable with enough elements.
        num_iter: steps to time.
        warmup: steps before that.
        max_time_seconds: stop after this time.

    Returns:
        average seconds per step, and the seconds of each step.
    """
    iterator = iter(iterator)
    for _ in range(int(warmup)):
        next(iterator)
    times: list[float] = []
    begin = time.perf_counter()
    for _ in trange(int(num_iter)):
        start = time.perf_counter()
        if times and start - begin > max_time_seconds:
            break
        next(iterator)
        times.append(time.perf_counter() - start)
    return (time.perf_counter() - begin) / max(len(times), 1), times


class DataLoaderBenchmark:
    """Times the data set alone, with its mapper, in workers, in workers without the transport, and on all ranks.

    Args:
        dataset: a list of records or a map-style data set.
        mapper, sampler, total_batch_size, num_workers: see `build_detection_train_loader`.
        max_time_seconds: limit of each benchmark.
    """

    def __init__(
        self,
        dataset,
        *,
        mapper: Callable,
        sampler=None,
        total_batch_size: int,
        num_workers: int = 0,
        max_time_seconds: int = 90,
    ):
        if isinstance(dataset, list):
            dataset = DatasetFromList(dataset, copy=False, serialize=True)
        self.dataset = dataset
        self.mapper = mapper
        self.sampler = TrainingSampler(len(dataset)) if sampler is None else sampler
        self.total_batch_size = total_batch_size
        self.num_workers = num_workers
        self.per_gpu_batch_size = total_batch_size // comm.get_world_size()
        self.max_time_seconds = max_time_seconds

    def _elements(self, of: Callable):
        return (of(index) for _ in itertools.count() for index in self.sampler)

    def _loader(self, dataset, num_workers: int):
        return build_batch_data_loader(dataset, self.sampler, self.total_batch_size, num_workers=num_workers)

    def _benchmark(self, iterator: Iterable, num_iter: int, warmup: int) -> tuple[float, list[float]]:
        """The average time and the 1st, 5th, 95th and 99th percentiles, in seconds."""
        average, times = iter_benchmark(iterator, num_iter, warmup, self.max_time_seconds)
        return average, np.percentile(times, [1, 5, 95, 99], method="nearest").tolist()

    @staticmethod
    def _log_time(message: str, average: float, percentiles: list[float]) -> None:
        shown = ", ".join(f"p{p}={s:.2g}s" for p, s in zip((1, 5, 95, 99), percentiles, strict=True))
        logger.info(f"{message}: avg={1.0 / average:.1f} it/s, {shown}.")

    def benchmark_dataset(self, num_iter: int, warmup: int = 5) -> None:
        """Reading elements of the data set."""
        stream = self._elements(self.dataset.__getitem__)
        self._log_time("Dataset Alone", *self._benchmark(stream, num_iter, warmup))

    def benchmark_mapper(self, num_iter: int, warmup: int = 5) -> None:
        """Reading and mapping elements in this process."""
        stream = self._elements(lambda index: self.mapper(self.dataset[index]))
        message = "Single Process Mapper (sec/sample)"
        self._log_time(message, *self._benchmark(stream, num_iter, warmup))

    def benchmark_workers(self, num_iter: int, warmup: int = 10) -> None:
        """Whole batches with no worker, with one, and with `num_workers`."""
        mapped = MapDataset(self.dataset, self.mapper)
        for workers in dict.fromkeys((0, 1, self.num_workers)):
            many = max(workers, 1)
            message = f"DataLoader ({workers} workers, bs={self.per_gpu_batch_size})"
            self._log_time(message, *self._benchmark(self._loader(mapped, workers), num_iter * many, warmup * many))

    def benchmark_IPC(self, num_iter: int, warmup: int = 10) -> None:
        """Batches whose content the workers throw away: the difference is the cost of the transport."""
        empty = _EmptyMapDataset(MapDataset(self.dataset, self.mapper))
        many = max(self.num_workers, 1)
        message = f"DataLoader ({self.num_workers} workers, bs={self.per_gpu_batch_size}) w/o comm"
        self._log_time(message, *self._benchmark(self._loader(empty, self.num_workers), num_iter * many, warmup * many))

    def benchmark_distributed(self, num_iter: int, warmup: int = 10) -> None:
        """Whole batches on every rank; rank 0 logs them all. Also the time to the first batch."""
        many = max(self.num_workers, 1)
        begin = time.perf_counter()
        batches = iter(self._loader(MapDataset(self.dataset, self.mapper), self.num_workers))
        next(batches)
        logger.info(f"Dataloader startup time: {time.perf_counter() - begin:.2f} seconds")
        comm.synchronize()
        measured = self._benchmark(batches, num_iter * many, warmup * many)
        for rank, result in enumerate(comm.gather(measured)):
            setup = f"{comm.get_world_size()} GPUs x {self.num_workers} workers, total bs={self.total_batch_size}"
            self._log_time(f"GPU{rank} DataLoader ({setup})", *result)
