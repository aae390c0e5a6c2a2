import itertools
from collections import Counter

import pytest
import torch
from detectron2.data.samplers import (
    GroupedBatchSampler,
    InferenceSampler,
    RandomSubsetTrainingSampler,
    RepeatFactorTrainingSampler,
    TrainingSampler,
)
from detectron2.utils import comm


def take(sampler, n):
    return list(itertools.islice(sampler, n))


def test_training_sampler_follows_torch_permutations():
    generator = torch.Generator()
    generator.manual_seed(5)
    expected = [i for _ in range(3) for i in torch.randperm(7, generator=generator).tolist()]
    assert take(TrainingSampler(7, seed=5), 21) == expected
    assert take(TrainingSampler(3, shuffle=False), 7) == [0, 1, 2, 0, 1, 2, 0]


def test_training_sampler_divides_the_stream_among_ranks(monkeypatch):
    whole = take(TrainingSampler(10, seed=1), 40)
    monkeypatch.setattr(comm, "get_world_size", lambda: 4)
    for rank in range(4):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        assert take(TrainingSampler(10, seed=1), 10) == whole[rank::4]


@pytest.mark.parametrize(("size", "error"), [(0, ValueError), (-1, ValueError), (2.0, TypeError)])
def test_training_sampler_checks_its_size(size, error):
    with pytest.raises(error):
        TrainingSampler(size)


def test_random_subset_stays_the_same():
    sampler = RandomSubsetTrainingSampler(100, 0.1, seed_shuffle=1, seed_subset=2)
    first, second = take(sampler, 20)[:10], take(sampler, 20)[10:]
    assert len(set(first)) == 10
    assert set(first) == set(second)
    assert first != second
    other = RandomSubsetTrainingSampler(100, 0.1, seed_shuffle=3, seed_subset=2)
    assert set(take(other, 10)) == set(first)
    with pytest.raises(AssertionError):
        RandomSubsetTrainingSampler(5, 0.1)


def test_repeat_factors_by_hand():
    records = [{"annotations": [{"category_id": c} for c in ids]} for ids in ([0, 1], [0], [0], [])]
    # f(0) = 3/4, f(1) = 1/4, t = 1/2: r(0) = 1, r(1) = sqrt(2)
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(records, 0.5)
    assert factors.dtype == torch.float32
    assert torch.allclose(factors, torch.tensor([2**0.5, 1.0, 1.0, 1.0]))
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(records, 0.5, sqrt=False)
    assert factors.tolist() == [2.0, 1.0, 1.0, 1.0]


def test_repeat_factor_sampler_repeats_on_average():
    sampler = RepeatFactorTrainingSampler(torch.tensor([2.0, 1.0, 0.5]), shuffle=False, seed=0)
    generator = torch.Generator()
    generator.manual_seed(0)
    epochs = [sampler._get_epoch_indices(generator).tolist() for _ in range(400)]
    assert all(epoch[:3] == [0, 0, 1] for epoch in epochs)
    assert Counter(len(epoch) for epoch in epochs).keys() == {3, 4}
    assert 160 < sum(2 in epoch for epoch in epochs) < 240
    assert take(sampler, 400 * 3) == list(itertools.chain(*epochs))[: 400 * 3]


@pytest.mark.parametrize(
    ("size", "ranks", "expected"), [(7, 3, [[0, 1, 2], [3, 4], [5, 6]]), (2, 3, [[0], [1], []]), (4, 1, [[0, 1, 2, 3]])]
)
def test_inference_sampler_gives_each_index_once(monkeypatch, size, ranks, expected):
    monkeypatch.setattr(comm, "get_world_size", lambda: ranks)
    for rank in range(ranks):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        sampler = InferenceSampler(size)
        assert list(sampler) == expected[rank]
        assert len(sampler) == len(expected[rank])


def test_grouped_batches():
    order = torch.utils.data.SequentialSampler(range(7))
    # Not list(...), which asks for the length first.
    batches = [*iter(GroupedBatchSampler(order, [0, 1, 1, 0, 1, 0, 0], 2))]
    assert batches == [[1, 2], [0, 3], [5, 6]]
    with pytest.raises(ValueError, match="sampler"):
        GroupedBatchSampler([0, 1], [0, 0], 2)
    with pytest.raises(NotImplementedError):
        len(GroupedBatchSampler(order, [0] * 7, 2))
