"""Similarities and merging: targets, losses by hand, groups against a plain loop."""

import math

import pytest
import torch
from detectron2.structures import Instances

from instseg_d2.modeling.meta_arch.pep.purify import (
    InstancePurifying,
    merge_descriptors,
    merge_groups,
    similarity_targets,
)


def test_targets_are_symmetric_with_ones_on_the_diagonal_and_between_originals_of_one_object():
    target, known = similarity_targets(torch.tensor([4, 7, 4, -1, -1]))
    assert torch.equal(target, target.T)
    assert (target.diagonal() == 1).all()
    assert target[0].tolist() == [1, 0, 1, 0, 0]
    assert target[3].tolist() == [0, 0, 0, 1, 0]
    assert known[0].tolist() == [True, True, True, False, False]
    assert known[3].tolist() == [False, False, False, True, False]


def by_loop(match):
    """Groups as the definition says: each in turn, if it is free, takes all that are free and match."""
    leaders = [-1] * len(match)
    for seed in range(len(match)):
        if leaders[seed] < 0:
            for other in range(len(match)):
                if leaders[other] < 0 and (match[seed, other] or other == seed):
                    leaders[other] = seed
    return leaders


@pytest.mark.parametrize("share", [0.02, 0.1, 0.4])
def test_groups_are_those_of_the_loop(share):
    rng = torch.Generator().manual_seed(int(share * 100))
    for size in (0, 1, 2, 7, 30):
        upper = (torch.rand(size, size, generator=rng) < share).triu(1)
        match = upper | upper.T
        assert merge_groups(match).tolist() == by_loop(match)


def test_chain_is_one_group_only_when_asked():
    match = torch.eye(4, dtype=torch.bool)
    for i in range(3):
        match[i, i + 1] = match[i + 1, i] = True
    assert merge_groups(match).tolist() == [0, 0, 2, 2]
    assert merge_groups(match, chains=True).tolist() == [0, 0, 0, 0]
    assert merge_groups(match[:0, :0], chains=True).tolist() == []


def test_merged_descriptor_is_the_mean_weighted_by_score():
    descriptors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [5.0, 5.0]])
    merged = merge_descriptors(descriptors, torch.tensor([0.9, 0.3, 0.2]), torch.tensor([0, 0, 2]))
    assert torch.allclose(merged[[0, 2]], torch.tensor([[0.75, 0.25], [5.0, 5.0]]))


def test_merging_identical_descriptors_returns_that_descriptor():
    descriptor = torch.randn(16, generator=torch.Generator().manual_seed(0))
    merged = merge_descriptors(descriptor.expand(5, 16), torch.rand(5), torch.zeros(5, dtype=torch.int64))
    assert torch.allclose(merged[0], descriptor)


def module(**options):
    torch.manual_seed(0)
    return InstancePurifying(channels=8, embedding_dims=(8, 4), **options)


def nodes(descriptors, classes, scores=None):
    count = len(descriptors)
    fields = {
        "descriptors": descriptors,
        "pred_classes": torch.tensor(classes),
        "scores": torch.linspace(0.9, 0.5, count) if scores is None else scores,
        "locations": torch.arange(2.0 * count).view(count, 2),
    }
    return Instances((64, 96), **fields)


@pytest.mark.parametrize("similarity", ["cosine", "half_cosine", "distance"])
def test_similarity_is_symmetric_and_highest_for_itself(similarity):
    purify = module(similarity=similarity)
    descriptors = torch.randn(5, 8)
    descriptors[3] = descriptors[1]
    logits = purify(descriptors, torch.zeros(5, 2))
    assert torch.allclose(logits, logits.T, atol=1e-4)
    assert torch.allclose(logits[1, 3], logits[1, 1], atol=1e-3)
    assert (logits.diagonal() >= logits.amax(dim=1) - 1e-4).all()
    if similarity == "cosine":
        assert logits.diagonal().tolist() == pytest.approx([5.0] * 5)  # 10 - 5
    purify.losses([logits], [torch.tensor([0, 1, 0, 1, 2])])["loss_purify"].backward()
    assert all(p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in purify.parameters())


def test_places_tell_twins_apart_only_when_asked():
    twins, places = torch.ones(2, 8), torch.tensor([[-1.0, 0.0], [1.0, 0.5]])
    assert torch.allclose(module()(twins, places)[0, 1], torch.tensor(5.0))
    assert module(coordinates=True)(twins, places)[0, 1] < 4.99


def test_loss_halves_the_weights_of_both_kinds():
    logits = torch.tensor([[9.0, 0.0, 1.0], [0.0, 9.0, -1.0], [1.0, -1.0, 9.0]])
    objects = torch.tensor([0, 0, 1])
    positive = math.log(2)  # of 0
    negative = (math.log(1 + math.e) + math.log(1 + math.exp(-1))) / 2  # of 1 and -1
    loss = module().losses([logits], [objects])["loss_purify"]
    assert loss.item() == pytest.approx((positive + negative) / 2)
    printed = module(balanced=False).losses([logits], [objects])["loss_purify"]
    diagonal = 3 * math.log(1 + math.exp(-9))
    assert printed.item() == pytest.approx((diagonal + 2 * positive + 4 * negative) / 9)


@pytest.mark.parametrize("balanced", [True, False])
def test_nothing_to_compare_gives_a_zero_that_keeps_the_graph(balanced):
    for count in (0, 1):
        purify = module(balanced=balanced)
        logits = purify(torch.randn(count, 8), torch.zeros(count, 2))
        loss = purify.losses([logits], [torch.arange(count)])["loss_purify"]
        loss.backward()
        assert loss.isfinite()
        assert loss == 0 or not balanced
        assert all(p.grad is not None for p in purify.parameters())


def test_descriptors_without_object_are_ignored():
    purify, descriptors = module(), torch.randn(4, 8)
    logits = purify(descriptors, torch.zeros(4, 2))
    with_stranger = purify.losses([logits], [torch.tensor([0, 0, 1, -1])])["loss_purify"]
    without = purify.losses([logits[:3, :3]], [torch.tensor([0, 0, 1])])["loss_purify"]
    assert torch.allclose(with_stranger, without)


def test_only_descriptors_of_one_class_merge_and_the_best_gives_score_and_place():
    logits = torch.full((4, 4), -5.0)
    logits[[0, 2, 0, 3, 2, 3], [2, 0, 3, 0, 3, 2]] = 5.0
    found = nodes(torch.randn(4, 8), [1, 1, 1, 2])
    merged, groups = module().inference(logits, found)
    assert groups.tolist() == [0, 1, 0, 3]
    assert torch.equal(merged.scores, found.scores[[0, 1, 3]])
    assert torch.equal(merged.locations, found.locations[[0, 1, 3]])
    assert torch.allclose(merged.descriptors[1:], found.descriptors[[1, 3]])
    weights = found.scores[[0, 2]][:, None]
    assert torch.allclose(merged.descriptors[0], (weights * found.descriptors[[0, 2]]).sum(0) / weights.sum())
    kept, same = module(merged="best").inference(logits, found)
    assert torch.equal(same, torch.tensor([0, 1, 0, 3]))
    assert torch.equal(kept.descriptors, found.descriptors[[0, 1, 3]])
    nobody, groups = module().inference(logits[:0, :0], found[:0])
    assert len(nobody) == len(groups) == 0


def test_autocast_keeps_float32():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = module()(torch.randn(3, 8).bfloat16(), torch.zeros(3, 2))
    assert logits.dtype == torch.float32


def test_unknown_options():
    with pytest.raises(ValueError, match="similarity='dot'"):
        module(similarity="dot")
    with pytest.raises(ValueError, match="merge='all'"):
        module(merge="all")
    with pytest.raises(ValueError, match="merged='sum'"):
        module(merged="sum")
