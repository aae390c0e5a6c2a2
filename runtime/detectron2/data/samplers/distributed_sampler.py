"""Index samplers that divide their work among the processes of a job, by rank."""

import itertools
import logging
import math
from collections import Counter
from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from detectron2.utils import comm

__all__ = [
    "TrainingSampler",
    "RandomSubsetTrainingSampler",
    "RepeatFactorTrainingSampler",
    "InferenceSampler",
]

logger = logging.getLogger(__name__)


class _EndlessSampler(Sampler):
    """An infinite stream that all ranks compute alike from the same seed; each rank keeps every world-size-th index.

    The stream is not divided among DataLoader workers; `ToIterableDataset` does that.
    """

    def __init__(self, shuffle: bool, seed: int | None):
        self._shuffle = shuffle
        self._seed = int(comm.shared_random_seed() if seed is None else seed)
        self._rank = comm.get_rank()
        self._world_size = comm.get_world_size()

    def _epoch(self, generator: torch.Generator) -> torch.Tensor:
        """The indices of the next pass over the data, in order; may draw from `generator`."""
        raise NotImplementedError

    def _infinite_indices(self) -> Iterator[int]:
        generator = torch.Generator()
        generator.manual_seed(self._seed)
        while True:
            indices = self._epoch(generator)
            if self._shuffle:
                indices = indices[torch.randperm(len(indices), generator=generator)]
            yield from indices.tolist()

    def __iter__(self) -> Iterator[int]:
        return itertools.islice(self._infinite_indices(), self._rank, None, self._world_size)


class TrainingSampler(_EndlessSampler):
    """All indices of a data set, over and over, in a new random order each time.

    Args:
        size: number of elements, positive.
        shuffle: False gives the order 0, 1, ..., size - 1.
        seed: the same on all ranks. None agrees on a random one, which needs all ranks to take part.
    """

    def __init__(self, size: int, shuffle: bool = True, seed: int | None = None):
        if not isinstance(size, int):
            raise TypeError(f"TrainingSampler(size=...) must be an int, got {type(size)}")
        if size <= 0:
            raise ValueError(f"TrainingSampler(size=...) must be positive, got {size}: the data set is empty")
        self._size = size
        super().__init__(shuffle, seed)

    def _epoch(self, generator: torch.Generator) -> torch.Tensor:
        return torch.arange(self._size)


class RandomSubsetTrainingSampler(TrainingSampler):
    """Like `TrainingSampler`, on a random part of the data set that stays the same: for curves over the number of
    training images.

    Args:
        size: number of elements of the whole data set.
        subset_ratio: share to use, in (0, 1].
        shuffle: whether the part is shuffled on each pass.
        seed_shuffle: seed of that order, the same on all ranks; None agrees on one.
        seed_subset: seed of the choice of the part, the same on all ranks; None agrees on one.
    """

    def __init__(
        self,
        size: int,
        subset_ratio: float,
        shuffle: bool = True,
        seed_shuffle: int | None = None,
        seed_subset: int | None = None,
    ):
        super().__init__(size=size, shuffle=shuffle, seed=seed_shuffle)
        assert 0.0 < subset_ratio <= 1.0, f"subset_ratio must be in (0, 1], got {subset_ratio}"
        self._size_subset = int(size * subset_ratio)
        assert self._size_subset > 0, f"subset_ratio={subset_ratio} of {size} elements leaves none"
        self._seed_subset = int(comm.shared_random_seed() if seed_subset is None else seed_subset)
        chooser = torch.Generator()
        chooser.manual_seed(self._seed_subset)
        self._indexes_subset = torch.randperm(size, generator=chooser)[: self._size_subset]
        logger.info(f"Training on a random subset of {self._size_subset} of {size} elements")

    def _epoch(self, generator: torch.Generator) -> torch.Tensor:
        return self._indexes_subset


class RepeatFactorTrainingSampler(_EndlessSampler):
    """Like `TrainingSampler`, with element i given `repeat_factors[i]` times per pass on average: its whole part
    always, and once more with a probability equal to its fraction.

    Args:
        repeat_factors: (N,) float tensor.
        shuffle: False keeps the order of the elements.
        seed: the same on all ranks; None agrees on a random one.
    """

    def __init__(self, repeat_factors: torch.Tensor, *, shuffle: bool = True, seed: int | None = None):
        super().__init__(shuffle, seed)
        self._int_part = torch.trunc(repeat_factors)
        self._frac_part = repeat_factors - self._int_part

    @staticmethod
    def repeat_factors_from_category_frequency(
        dataset_dicts: list[dict], repeat_thresh: float, sqrt: bool = True
    ) -> torch.Tensor:
        """The factors of the LVIS paper (arXiv:1908.03195, appendix B.2). With f(c) the share of images that
        contain category c, r(c) = max(1, sqrt(repeat_thresh / f(c))), and an image gets the largest r of its
        categories, or 1 when it has none.

        Args:
            dataset_dicts: records with "annotations", in detectron2's standard format.
            repeat_thresh: share of images below which a category is repeated.
            sqrt: False leaves out the square root.

        Returns:
            (N,) float32 tensor.
        """
        categories = [{ann["category_id"] for ann in record["annotations"]} for record in dataset_dicts]
        images_with = Counter(itertools.chain.from_iterable(categories))
        factor: dict[int, float] = {}
        for category, count in sorted(images_with.items()):
            share = count / len(dataset_dicts)
            wanted = repeat_thresh / share
            factor[category] = max(1.0, math.sqrt(wanted) if sqrt else wanted)
            logger.info(f"category {category}: in {share:.2f} of the images, repeated {factor[category]:.2f} x")
        per_image = [max((factor[c] for c in present), default=1.0) for present in categories]
        return torch.tensor(per_image, dtype=torch.float32)

    def _get_epoch_indices(self, generator: torch.Generator) -> torch.Tensor:
        """(M,) int64: one pass's indices in order, each as often as its factor says, rounded at random."""
        once_more = torch.rand(len(self._frac_part), generator=generator) < self._frac_part
        times = self._int_part.long() + once_more
        return torch.repeat_interleave(torch.arange(len(times)), times)

    def _epoch(self, generator: torch.Generator) -> torch.Tensor:
        return self._get_epoch_indices(generator)


class InferenceSampler(Sampler):
    """Every index exactly once over all ranks: each rank gets one contiguous range, and the first ranks one index
    more where `size` does not divide evenly.

    Args:
        size: number of elements, positive.
    """

    def __init__(self, size: int):
        assert size > 0, f"InferenceSampler(size=...) must be positive, got {size}: the data set is empty"
        self._size = size
        self._rank = comm.get_rank()
        self._world_size = comm.get_world_size()
        self._local_indices = self._get_local_indices(size, self._world_size, self._rank)

    @staticmethod
    def _get_local_indices(total_size: int, world_size: int, rank: int) -> range:
        base, extra = divmod(total_size, world_size)
        begin = rank * base + min(rank, extra)
        return range(begin, begin + base + (rank < extra))

    def __iter__(self) -> Iterator[int]:
        return iter(self._local_indices)

    def __len__(self) -> int:
        return len(self._local_indices)
