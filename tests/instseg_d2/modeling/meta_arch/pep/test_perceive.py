"""Semantics perceiving: maps of both readings, losses by hand, and the choice of originals."""

import math

import pytest
import torch
from detectron2.layers import ShapeSpec
from torch.nn import functional as F

from instseg_d2.modeling.meta_arch.pep.perceive import Perceived, SemanticsPerceiving, flat_cells
from instseg_d2.modeling.meta_arch.pep.targets import CellGrid

K, C = 3, 8


def module(**options):
    torch.manual_seed(0)
    settings = {"grid_numbers": [6, 4], "grid_strides": [4, 8], "conv_dims": [C], "descriptor_channels": 5, "norm": ""}
    return SemanticsPerceiving(
        input_shape=[ShapeSpec(channels=C, stride=4), ShapeSpec(channels=C, stride=8)],
        num_classes=K,
        **{**settings, **options},
    )


def features(count=2, height=32, width=48):
    rng = torch.Generator().manual_seed(0)
    return [torch.randn(count, C, height // s, width // s, generator=rng) for s in (4, 8)]


def test_grids_whatever_the_shape_of_the_image_and_dense_maps_of_the_features():
    for height, width in ((32, 48), (64, 32)):
        perceived = module()(features(height=height, width=width))
        assert [tuple(level.shape) for level in perceived.logits] == [(2, K, 6, 6), (2, K, 4, 4)]
        assert [tuple(level.shape) for level in perceived.descriptors] == [(2, 5, 6, 6), (2, 5, 4, 4)]
        assert [tuple(level.shape) for level in perceived.features] == [(2, C, 6, 6), (2, C, 4, 4)]
        assert (perceived.grid.height, perceived.grid.width) == (height, width)
    dense = module(grid_numbers=None, classifier="softmax")(features())
    assert [tuple(level.shape) for level in dense.logits] == [(2, K + 1, 8, 12), (2, K + 1, 4, 6)]
    assert dense.grid.shapes == ((8, 12), (4, 6))


def test_stages_share_weights_or_have_their_own_and_may_share_the_tower():
    counts = [
        sum(p.numel() for p in module(**options).parameters())
        for options in ({}, {"shared_levels": False}, {"shared_tower": True})
    ]
    tower = C * 9 * C + C
    assert counts[1] == 2 * counts[0]
    assert counts[2] == counts[0] - tower
    same = features()
    same[1] = same[0]
    own = module(grid_numbers=None, shared_levels=False)(same)
    assert not torch.allclose(own.descriptors[0], own.descriptors[1])
    shared = module(grid_numbers=None)(same)
    assert torch.allclose(shared.descriptors[0], shared.descriptors[1], atol=1e-6)


@pytest.mark.parametrize("classifier", ["sigmoid", "softmax"])
def test_every_cell_starts_at_the_prior(classifier):
    head = module(classifier=classifier, prior_prob=0.06)
    for stage in head.stages:
        torch.nn.init.zeros_(stage.category_pred.weight)
    probabilities = head.probabilities(head(features()).logits[0])
    expected = 0.06 if classifier == "sigmoid" else 0.02  # of each class, of all three together
    assert torch.allclose(probabilities, torch.full_like(probabilities, expected))


def perceived_of(logits, height=16, width=16):
    """One level whose logits (N, K, h, w) are given."""
    descriptors = torch.randn(len(logits), 5, *logits.shape[2:])
    grid = CellGrid((tuple(logits.shape[2:]),), height, width, torch.device("cpu"))
    return Perceived([logits], [descriptors], [descriptors], grid)


def test_focal_loss_is_divided_by_the_cells_with_an_object():
    labels = torch.full((1, 4), K)
    labels[0, :2] = 1
    loss = module().losses(perceived_of(torch.zeros(1, K, 2, 2)), labels)["loss_perceive"].item()
    assert loss == pytest.approx((2 * 0.25 + 10 * 0.75) * 0.25 * math.log(2) / 2, rel=1e-5)
    nothing = module().losses(perceived_of(torch.zeros(1, K, 2, 2)), torch.full((1, 4), K))["loss_perceive"].item()
    assert nothing == pytest.approx(12 * 0.75 * 0.25 * math.log(2), rel=1e-5)


def test_cross_entropy_counts_objects_and_the_worst_background():
    logits = torch.randn(1, K + 1, 4, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.full((1, 16), K)
    labels[0, 3] = 2
    head = module(classifier="softmax", negatives=3)
    each = F.cross_entropy(flat_cells([logits])[0], labels[0], reduction="none")
    background = torch.cat([each[:3], each[4:]])
    expected = torch.cat([each[3:4], background.topk(3).values]).mean()
    assert torch.allclose(head.losses(perceived_of(logits), labels)["loss_perceive"], expected)
    # Three background cells where there is no object, all where there are fewer than asked for.
    nothing = head.losses(perceived_of(logits), torch.full((1, 16), K))["loss_perceive"]
    each = F.cross_entropy(flat_cells([logits])[0], torch.full((16,), K), reduction="none")
    assert torch.allclose(nothing, each.topk(3).values.mean())
    head.negatives = 100
    assert torch.allclose(head.losses(perceived_of(logits), torch.full((1, 16), K))["loss_perceive"], each.mean())


@pytest.mark.parametrize("classifier", ["sigmoid", "softmax"])
def test_gradient_reaches_all_of_the_class_branch(classifier):
    head = module(classifier=classifier)
    labels = torch.full((2, 52), K)
    labels[0, 5] = 1
    head.losses(head(features()), labels)["loss_perceive"].backward()
    for stage in head.stages:
        for layer in (stage.category_tower, stage.category_pred):
            assert all(p.grad.abs().sum() > 0 for p in layer.parameters())


def test_originals_are_peaks_above_the_threshold_best_first():
    logits = torch.full((1, K, 4, 4), -9.0)
    logits[0, 1, 1, 1], logits[0, 1, 1, 2], logits[0, 2, 3, 3], logits[0, 0, 3, 0] = 2.0, 1.0, 3.0, -3.0
    perceived = perceived_of(logits)
    (found,) = module().originals(perceived, [(14, 16)])
    assert found.image_size == (14, 16)
    assert found.pred_classes.tolist() == [2, 1]  # of the neighbours the better one; 0.05 is too little
    assert found.scores.tolist() == pytest.approx([1 / (1 + math.exp(-3)), 1 / (1 + math.exp(-2))])
    assert found.locations.tolist() == [[14, 14], [6, 6]]
    assert found.cells.tolist() == [15, 5]
    assert torch.equal(found.descriptors, perceived.descriptors[0][0, :, [3, 1], [3, 1]].T)
    assert len(module(max_originals=1).originals(perceived, [(14, 16)])[0]) == 1
    assert len(module(score_threshold=0.99).originals(perceived, [(14, 16)])[0]) == 0


def test_mistakes():
    with pytest.raises(ValueError, match="classifier='argmax'"):
        module(classifier="argmax")
    with pytest.raises(ValueError, match="2 levels, but 2 grid_strides and 1"):
        module(grid_numbers=[4])
