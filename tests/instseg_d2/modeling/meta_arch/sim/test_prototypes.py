"""Prototypes: semantic maps and updates by hand; the released code's readings; state, autocast, nasty input."""

import math

import pytest
import torch
from torch.nn import functional as F

from instseg_d2.modeling.meta_arch.sim.prototypes import Prototypes


def with_vectors(vectors, **settings):
    vectors = torch.tensor(vectors, dtype=torch.float32)
    prototypes = Prototypes(
        num_classes=len(vectors), num_prototypes=vectors.shape[1], channels=vectors.shape[2], **settings
    )
    prototypes.vectors.copy_(vectors)
    return prototypes


def test_semantic_map_by_hand():
    """Cosines with the nearest prototype of 0.1, 0.3 and 0, by a temperature of 0.1; lengths do not matter."""
    prototypes = with_vectors([[[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]])
    cosines = torch.tensor([0.1, -0.3, 0.0])
    features = torch.stack([cosines, (1 - cosines**2).sqrt(), torch.zeros(3)])[:, None] * torch.tensor([1.0, 7, 0.2])
    maps = prototypes.semantic_maps(features, torch.tensor([0]))
    assert maps.shape == (1, 1, 3)
    assert maps[0, 0].tolist() == pytest.approx([1 / (1 + math.exp(-1)), 1 / (1 + math.exp(-3)), 0.5], abs=1e-6)
    warm = with_vectors([[[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]], temperature=1.0)
    assert warm.semantic_maps(features, torch.tensor([0]))[0, 0, 1].item() == pytest.approx(1 / (1 + math.exp(-0.3)))


def test_objects_of_a_class_share_its_map():
    prototypes = Prototypes(num_classes=4, channels=3, num_prototypes=2)
    maps = prototypes.semantic_maps(torch.randn(3, 5, 6), torch.tensor([2, 0, 2]))
    assert torch.equal(maps[0], maps[2])
    assert not torch.equal(maps[0], maps[1])
    assert prototypes.semantic_maps(torch.randn(3, 5, 6), torch.zeros(0, dtype=torch.int64)).shape == (0, 5, 6)


def test_update_by_hand():
    """Three pixels: two along x go to the first prototype, one along y to the second; the other class stays."""
    prototypes = with_vectors([[[0.8, 0.6], [0.6, 0.8]], [[1.0, 0.0], [0.0, 1.0]]], momentum=0.75)
    features = torch.tensor([[[2.0, 9.0, 0.0, 1.0]], [[0.0, 0.0, 4.0, 1.0]]])
    masks = torch.tensor([[[1, 1, 1, 0]]], dtype=torch.bool)
    prototypes.update(features, masks, torch.tensor([0]))
    expected = F.normalize(torch.tensor([[0.75 * 0.8 + 0.25, 0.75 * 0.6], [0.75 * 0.6, 0.75 * 0.8 + 0.25]]), dim=1)
    assert torch.allclose(prototypes.vectors[0], expected, atol=1e-6)
    assert prototypes.vectors[1].tolist() == [[1, 0], [0, 1]]


def test_centroid_is_the_mean_of_the_pixels_of_unit_length():
    prototypes = with_vectors([[[1.0, 0.0]]], momentum=0.0)
    prototypes.update(torch.tensor([[[5.0, 0.0]], [[0.0, 1.0]]]), torch.ones(1, 1, 2).bool(), torch.tensor([0]))
    assert torch.allclose(prototypes.vectors[0, 0], torch.tensor([0.5, 0.5]).sqrt(), atol=1e-6)


def test_a_prototype_without_pixels_stays():
    prototypes = with_vectors([[[1.0, 0.0], [0.0, 1.0]]], momentum=0.0)
    prototypes.update(torch.tensor([[[3.0]], [[4.0]]]), torch.ones(1, 1, 1).bool(), torch.tensor([0]))
    moved = (prototypes.vectors[0] - torch.eye(2)).abs().sum(dim=1) > 0
    assert moved.sum() == 1
    before = prototypes.vectors.clone()
    prototypes.update(torch.randn(2, 1, 1), torch.zeros(1, 1, 1).bool(), torch.tensor([0]))
    prototypes.update(torch.randn(2, 1, 1), torch.zeros(0, 1, 1).bool(), torch.zeros(0, dtype=torch.int64))
    prototypes.synchronize()
    assert torch.allclose(prototypes.vectors, before, atol=1e-6)


def test_other_features_may_decide_who_goes_where():
    features = torch.eye(2)[:, None]
    learned = []
    for scored in (None, features.flip(2)):
        prototypes = with_vectors([[[0.8, 0.6], [0.6, 0.8]]], momentum=0.0)
        prototypes.update(features, torch.ones(1, 1, 2).bool(), torch.tensor([0]), scored)
        learned.append(prototypes.vectors[0])
    assert learned[0].tolist() == [[1, 0], [0, 1]]
    assert learned[1].tolist() == [[0, 1], [1, 0]]


def test_parts_of_a_class_find_prototypes_of_their_own():
    torch.manual_seed(0)
    prototypes = Prototypes(num_classes=1, channels=8, num_prototypes=4, momentum=0.9, sinkhorn_iterations=50)
    parts = torch.eye(8)[:4]
    for _ in range(60):
        pixels = parts.repeat_interleave(25, dim=0) + 0.1 * torch.randn(100, 8)
        prototypes.update(pixels.T[:, None], torch.ones(1, 1, 100).bool(), torch.tensor([0]))
    cosines = prototypes.vectors[0] @ parts.T
    assert sorted(cosines.argmax(dim=1).tolist()) == [0, 1, 2, 3]
    assert cosines.amax(dim=1).min() > 0.98


def test_normalizations():
    torch.manual_seed(0)
    vectors = Prototypes(num_classes=3, channels=16, num_prototypes=10).vectors
    assert torch.allclose(vectors.norm(dim=2), torch.ones(3, 10), atol=1e-5)
    vectors = Prototypes(num_classes=3, channels=16, num_prototypes=10, normalized="prototypes").vectors
    assert torch.allclose(vectors.norm(dim=1), torch.ones(3, 16), atol=1e-5)
    # Vectors are then longer than 1: sqrt(16 / 10) on average.
    assert vectors.norm(dim=2).square().mean().item() == pytest.approx(1.6, rel=1e-4)


def test_random_assignment_hardly_looks_at_the_plan():
    """A pixel whose share is wholly its own prototype's keeps it with probability e / (e + 9)."""
    torch.manual_seed(0)
    prototypes = Prototypes(num_classes=1, channels=4, assignment="gumbel")
    own = torch.arange(20000) % 10
    plan = F.one_hot(own, 10).T / 20000
    kept = (prototypes._assign(plan) == own).float().mean().item()
    assert kept == pytest.approx(math.e / (math.e + 9), abs=0.01)
    assert torch.equal(Prototypes(num_classes=1, channels=4)._assign(plan), own)


def test_autocast_changes_nothing():
    torch.manual_seed(0)
    features, masks, classes = torch.randn(4, 6, 6), torch.rand(2, 6, 6) > 0.5, torch.tensor([1, 0])
    results = []
    for enabled in (False, True):
        torch.manual_seed(1)
        prototypes = Prototypes(num_classes=2, channels=4, num_prototypes=3)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            prototypes.update(features, masks, classes)
            results.append(prototypes.semantic_maps(features, classes))
    assert results[1].dtype == torch.float32
    assert torch.equal(*results)


def test_they_are_state_and_no_parameters():
    prototypes = Prototypes(num_classes=5, channels=4, num_prototypes=3)
    assert not list(prototypes.parameters())
    assert prototypes.state_dict()["vectors"].shape == (5, 3, 4)
    features = torch.randn(4, 2, 2, requires_grad=True)
    assert not prototypes.semantic_maps(features, torch.tensor([0])).requires_grad


@pytest.mark.parametrize("settings", [{"assignment": "soft"}, {"normalized": "no"}])
def test_mistakes(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        Prototypes(num_classes=1, channels=1, **settings)
