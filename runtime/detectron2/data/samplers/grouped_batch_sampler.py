"""Batches whose elements all belong to the same group."""

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import BatchSampler, Sampler

__all__ = ["GroupedBatchSampler"]


class GroupedBatchSampler(BatchSampler):
    """Collects the indices of another sampler into batches of one group each, in the order in which the batches
    become complete.

    Args:
        sampler: gives indices in [0, N).
        group_ids: N group numbers.
        batch_size: indices per batch; incomplete batches stay buffered.

    Raises:
        ValueError: `sampler` is not a torch Sampler.
    """

    def __init__(self, sampler: Sampler, group_ids: Sequence[int], batch_size: int):
        if not isinstance(sampler, Sampler):
            raise ValueError(f"sampler must be a torch.utils.data.Sampler, got {sampler!r}")
        self.sampler = sampler
        self.group_ids = np.asarray(group_ids)
        assert self.group_ids.ndim == 1, f"group_ids must be one-dimensional, got {self.group_ids.shape}"
        self.batch_size = batch_size
        self.buffer_per_group: dict[int, list[int]] = {g: [] for g in np.unique(self.group_ids).tolist()}

    def __iter__(self) -> Iterator[list[int]]:
        for index in self.sampler:
            group = self.group_ids[index].item()
            self.buffer_per_group[group].append(index)
            if len(self.buffer_per_group[group]) == self.batch_size:
                batch, self.buffer_per_group[group] = self.buffer_per_group[group], []
                yield batch

    def __len__(self) -> int:
        raise NotImplementedError("GroupedBatchSampler has no length: it depends on the order of the groups")
