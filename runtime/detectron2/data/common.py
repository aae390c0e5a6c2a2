"""Dataset wrappers that the loaders are built of: serialised lists, mapping, sampling, grouping by shape."""

import contextlib
import copy
import logging
import pickle
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import Dataset, IterableDataset, Sampler, get_worker_info

from detectron2.utils.serialize import PicklableWrapper

__all__ = ["MapDataset", "DatasetFromList", "AspectRatioGroupedDataset", "ToIterableDataset"]

logger = logging.getLogger(__name__)


def _worker_share(stream: Iterable, chunk_size: int) -> Iterator:
    """The part of `stream` that the current DataLoader worker is responsible for: of every `num_workers` runs of
    `chunk_size` items, the run with the worker's number. Everything, outside of a worker.
    """
    worker = get_worker_info()
    if worker is None or worker.num_workers == 1:
        yield from stream
        return
    period = worker.num_workers * chunk_size
    first = worker.id * chunk_size
    for position, item in enumerate(stream):
        if 0 <= position % period - first < chunk_size:
            yield item


class _MapIterableDataset(IterableDataset):
    """What `MapDataset(iterable_dataset, f)` makes: f over a stream; items for which it gives None are left out."""

    def __init__(self, dataset: IterableDataset, map_func: Callable):
        self._dataset = dataset
        self._map_func = PicklableWrapper(map_func)

    def __len__(self) -> int:
        return len(self._dataset)

    def __iter__(self) -> Iterator:
        return (y for y in map(self._map_func, self._dataset) if y is not None)


class MapDataset(Dataset):
    """A function over the elements of a data set. `map_func` may return None for an element that cannot be used:
    a map-style data set then gives another, randomly chosen element instead, and an iterable one skips it.

    Args:
        dataset: map-style or iterable; the result is of the same kind.
        map_func: any callable, also a lambda (it stays picklable).
    """

    def __new__(cls, dataset, map_func):
        if isinstance(dataset, IterableDataset):
            return _MapIterableDataset(dataset, map_func)
        return super().__new__(cls)

    def __init__(self, dataset: Dataset, map_func: Callable):
        self._dataset = dataset
        self._map_func = PicklableWrapper(map_func)
        self._rng = random.Random(42)
        self._fallback_candidates = set(range(len(dataset)))

    def __getnewargs__(self):
        return self._dataset, self._map_func

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, idx: int) -> Any:
        position, misses = int(idx), 0
        while (mapped := self._map_func(self._dataset[position])) is None:
            misses += 1
            self._fallback_candidates.discard(position)
            if not self._fallback_candidates:
                raise RuntimeError(
                    f"the map function returned None for every element that was tried, and none of the "
                    f"{len(self)} elements is left to replace index {idx}"
                )
            if misses >= 3:
                logger.warning(f"index {idx}: the map function returned None {misses} times in a row")
            (position,) = self._rng.sample(list(self._fallback_candidates), k=1)
        self._fallback_candidates.add(position)
        return mapped


class _TorchSerializedList:
    """A read-only list whose items are pickled into one byte tensor. Worker processes share that tensor, forked or
    spawned, where a list of Python objects would be copied page by page as reference counts change.
    """

    def __init__(self, lst: list):
        pickled = [pickle.dumps(item, protocol=pickle.HIGHEST_PROTOCOL) for item in lst]
        ends = torch.tensor([len(p) for p in pickled], dtype=torch.int64).cumsum(0)
        buffer = bytearray().join(pickled)
        self._addr = ends
        self._lst = torch.frombuffer(buffer, dtype=torch.uint8) if buffer else torch.empty(0, dtype=torch.uint8)
        logger.info(f"Serialized {len(self)} elements into {len(self._lst) / 2**20:.2f} MiB of shared bytes")

    def __len__(self) -> int:
        return len(self._addr)

    def __getitem__(self, idx: int) -> Any:
        index = idx + len(self) if idx < 0 else idx
        if not 0 <= index < len(self):
            raise IndexError(f"index {idx} is out of range for {len(self)} elements")
        start = int(self._addr[index - 1]) if index else 0
        return pickle.loads(memoryview(self._lst[start : int(self._addr[index])].numpy()))


_default_serialize_method: Callable[[list], Any] = _TorchSerializedList


@contextlib.contextmanager
def set_default_dataset_from_list_serialize_method(new: Callable[[list], Any]):
    """Within the context, `DatasetFromList(serialize=True)` stores its list as `new(lst)`."""
    global _default_serialize_method
    previous, _default_serialize_method = _default_serialize_method, new
    try:
        yield
    finally:
        _default_serialize_method = previous


class DatasetFromList(Dataset):
    """A list as a map-style data set.

    Args:
        lst: the elements.
        copy: give a deep copy of an element, so that it can be changed in place; serialised elements are fresh
            objects anyway.
        serialize: True stores the list as pickled bytes that worker processes share; False keeps the list; a
            callable stores `serialize(lst)`.
    """

    def __init__(self, lst: list, copy: bool = True, serialize: bool | Callable[[list], Any] = True):
        if not (isinstance(serialize, bool) or callable(serialize)):
            raise TypeError(f"serialize must be a bool or a callable, got {serialize!r}")
        self._copy = copy
        self._serialize = serialize is not False
        if self._serialize:
            store = _default_serialize_method if serialize is True else serialize
            lst = store(lst)
        self._lst = lst

    def __len__(self) -> int:
        return len(self._lst)

    def __getitem__(self, idx: int) -> Any:
        item = self._lst[idx]
        return copy.deepcopy(item) if self._copy and not self._serialize else item


class ToIterableDataset(IterableDataset):
    """A map-style data set read in the order of a sampler, as an iterable one.

    Args:
        dataset: map-style.
        sampler: gives the indices. It runs in every DataLoader worker, so it should be cheap.
        shard_sampler: keep in each worker only its own share of the indices. False when the sampler
            already divides them among workers, which detectron2's samplers do not.
        shard_chunk_size: number of neighbouring indices that go to the same worker; with the batch size here,
            the batches are those of a single worker.
    """

    def __init__(self, dataset: Dataset, sampler: Sampler, shard_sampler: bool = True, shard_chunk_size: int = 1):
        assert not isinstance(dataset, IterableDataset), f"the data set is iterable already: {dataset}"
        assert isinstance(sampler, Sampler), f"sampler must be a torch Sampler, got {type(sampler)}"
        self.dataset = dataset
        self.sampler = sampler
        self.shard_sampler = shard_sampler
        self.shard_chunk_size = shard_chunk_size

    def __iter__(self) -> Iterator:
        indices = _worker_share(self.sampler, self.shard_chunk_size) if self.shard_sampler else self.sampler
        return (self.dataset[index] for index in indices)

    def __len__(self) -> int:
        return len(self.sampler)


class AspectRatioGroupedDataset(IterableDataset):
    """Batches of landscape (width > height) or of other images, never mixed, so that a batch needs little padding.

    Args:
        dataset: an iterable of dicts with "width" and "height".
        batch_size: length of the lists it gives. Incomplete batches stay in the buckets for the next iteration.
    """

    def __init__(self, dataset: Iterable[dict], batch_size: int):
        self.dataset = dataset
        self.batch_size = batch_size
        self._buckets: list[list[dict]] = [[], []]

    def __iter__(self) -> Iterator[list[dict]]:
        for record in self.dataset:
            which = int(record["width"] <= record["height"])
            self._buckets[which].append(record)
            if len(self._buckets[which]) == self.batch_size:
                # Replaced before the yield: the consumer may never resume this generator.
                batch, self._buckets[which] = self._buckets[which], []
                yield batch
