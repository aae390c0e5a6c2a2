"""Positive weighting, fusion and thresholds by hand; the labeler that joins them."""

import math

import pytest
import torch

from instseg_d2.modeling.meta_arch.sim.labeler import PseudoLabeler
from instseg_d2.modeling.meta_arch.sim.prototypes import Prototypes
from instseg_d2.modeling.meta_arch.sim.pseudo_masks import (
    AdaptiveThresholds,
    FixedThresholds,
    make_pseudo_masks,
    merge_positives,
    positive_weights,
)


def ones(*shape):
    return torch.ones(shape, dtype=torch.bool)


class TestWeights:
    def test_ious_of_nine_and_five_tenths_are_7_4_to_1(self):
        weights = positive_weights(torch.tensor([0.9, 0.3, 0.5]), torch.tensor([1, 0, 1]), 3)
        assert weights[0].item() / weights[2].item() == pytest.approx(math.exp(2), rel=1e-5)
        assert weights[0].item() / weights[2].item() == pytest.approx(7.4, abs=0.02)
        assert weights[1].item() == 1
        assert (weights[0] + weights[2]).item() == pytest.approx(1)

    def test_mu_of_zero_is_the_plain_mean(self):
        weights = positive_weights(torch.tensor([0.9, 0.3, 0.5]), torch.tensor([0, 0, 0]), 1, mu=0.0)
        assert weights.tolist() == pytest.approx([1 / 3] * 3)

    def test_merged_masks_are_weighted_sums(self):
        rng = torch.Generator().manual_seed(0)
        masks, gt_inds = torch.rand(5, 4, 6, generator=rng), torch.tensor([2, 0, 2, 2, 0])
        weights = positive_weights(torch.rand(5, generator=rng), gt_inds, 4)
        merged = merge_positives(masks, weights, gt_inds, 4)
        assert merged.shape == (4, 4, 6)
        for row in range(4):
            parts = [weights[k] * masks[k] for k in range(5) if gt_inds[k] == row]
            assert torch.allclose(merged[row], sum(parts, torch.zeros(4, 6)), atol=1e-6)

    def test_nothing(self):
        none = torch.zeros(0, dtype=torch.int64)
        weights = positive_weights(torch.zeros(0), none, 2)
        assert merge_positives(torch.zeros(0, 3, 3), weights, none, 2).abs().sum() == 0
        assert merge_positives(torch.zeros(0, 3, 3), positive_weights(torch.zeros(0), none, 0), none, 0).shape[0] == 0

    def test_autocast_changes_nothing(self):
        masks, gt_inds = torch.rand(3, 4, 4), torch.tensor([0, 0, 0])
        expected = merge_positives(masks, positive_weights(torch.rand(3), gt_inds, 1, mu=0.0), gt_inds, 1)
        with torch.autocast("cpu", torch.bfloat16):
            weights = positive_weights(torch.rand(3), gt_inds, 1, mu=0.0)
            assert torch.equal(merge_positives(masks, weights, gt_inds, 1), expected)


class TestFusion:
    def test_by_hand(self):
        """Fused 0.25 * semantic + 0.75 * instance; the last pixel lies outside of the box."""
        semantic = torch.tensor([[[0.8, 0.8, 0.0, 0.4, 0.9]]])
        instance = torch.tensor([[[0.8, 0.4, 0.2, 0.6, 0.9]]])
        region = torch.tensor([[[1, 1, 1, 1, 0]]]).bool()
        pseudo = make_pseudo_masks(semantic, instance, region, FixedThresholds(low=0.4, high=0.54), alpha=0.75)
        # 0.8, 0.5, 0.15, 0.55
        assert pseudo.targets[0, 0].tolist() == [True, False, False, True, False]
        assert pseudo.valid[0, 0].tolist() == [True, False, True, True, False]

    @pytest.mark.parametrize(("alpha", "expected"), [(0.0, [True, False]), (1.0, [False, True])])
    def test_ends(self, alpha, expected):
        semantic, instance = torch.tensor([[[0.9, 0.1]]]), torch.tensor([[[0.1, 0.9]]])
        pseudo = make_pseudo_masks(semantic, instance, ones(1, 1, 2), FixedThresholds(low=0.4, high=0.6), alpha=alpha)
        assert pseudo.targets[0, 0].tolist() == expected


class TestThresholds:
    def test_adaptive_by_hand(self):
        """Two sure pixels in the box, the third one outside; the fused value of rank 2 is 0.75."""
        fused = torch.tensor([[[0.9, 0.75, 0.85, 0.1, 0.99]]])
        instance = torch.tensor([[[0.8, 0.71, 0.5, 0.0, 0.9]]])
        region = torch.tensor([[[1, 1, 1, 1, 0]]]).bool()
        low, high = AdaptiveThresholds()(fused, instance, region)
        assert low.item() == pytest.approx(0.4)
        assert high.item() == pytest.approx(0.75)
        pseudo = make_pseudo_masks(fused, fused, region, AdaptiveThresholds(confident=0.88))
        assert pseudo.targets[0, 0].tolist() == [True, False, True, False, False]  # rank 1 is 0.85, clamped to 0.8

    def test_adaptive_limits(self):
        fused = torch.tensor([[[0.95, 0.95]], [[0.2, 0.1]], [[0.72, 0.72]]])
        sure = torch.tensor([[[0.0, 0.0]], [[0.9, 0.9]], [[0.9, 0.9]]])
        _, high = AdaptiveThresholds()(fused, sure, ones(3, 1, 2))
        # The second object has no pixel of rank 2: the last one counts.
        assert high.tolist() == pytest.approx([0.8, 0.7, 0.72])

    def test_fixed(self):
        low, high = FixedThresholds(low=0.3, high=0.7)(torch.zeros(2, 1, 1), torch.zeros(2, 1, 1), ones(2, 1, 1))
        assert low.tolist() == pytest.approx([0.3, 0.3])
        assert high.tolist() == pytest.approx([0.7, 0.7])

    def test_no_objects(self):
        nothing = torch.zeros(0, 3, 4)
        for thresholds in (FixedThresholds(low=0.3, high=0.7), AdaptiveThresholds()):
            assert make_pseudo_masks(nothing, nothing, nothing.bool(), thresholds).valid.shape == (0, 3, 4)

    def test_mistakes(self):
        with pytest.raises(ValueError, match="in order"):
            FixedThresholds(low=0.7, high=0.3)
        with pytest.raises(ValueError, match="in order"):
            AdaptiveThresholds(low=0.75)


class TestLabeler:
    def labeler(self, **settings):
        prototypes = Prototypes(num_classes=2, channels=2, num_prototypes=1, momentum=0.0)
        prototypes.vectors.copy_(torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]))
        return PseudoLabeler(prototypes=prototypes, thresholds=FixedThresholds(low=0.4, high=0.6), **settings)

    def test_each_object_sees_the_features_of_its_image_and_its_class(self):
        """Features along x in the first image and along y in the second; classes 0, 1 and 0."""
        features = torch.zeros(2, 2, 3, 3)
        features[0, 0] = features[1, 1] = 1
        labeler = self.labeler(alpha=0.0)
        classes = [torch.tensor([0, 1]), torch.tensor([0])]
        pseudo = labeler(features, torch.zeros(3, 3, 3), ones(3, 3, 3), classes)
        assert pseudo.targets.flatten(1).all(dim=1).tolist() == [True, False, False]

    @pytest.mark.parametrize("per_positive", [False, True])
    def test_pixels_of_an_object_count_once_or_once_a_positive(self, per_positive):
        """One object of two pixels and one of one, both of a class; the first has one positive, the second three."""
        features = torch.zeros(1, 2, 1, 3)
        features[0, 0, 0, :2] = features[0, 1, 0, 2] = 1
        maps = torch.tensor([[[0.8, 0.8, 0.1]], [[0.1, 0.1, 0.8]]])
        labeler = self.labeler(update_per_positive=per_positive)
        gt_inds = [torch.tensor([1, 0, 1, 1])]
        labeler.learn(features, features, maps, ones(2, 1, 3), [torch.tensor([0, 0])], gt_inds)
        expected = torch.tensor([2.0, 3.0] if per_positive else [2.0, 1.0])
        assert torch.allclose(labeler.prototypes.vectors[0, 0], expected / expected.norm(), atol=1e-6)

    def test_only_sure_pixels_of_the_box_teach(self):
        features = torch.zeros(1, 2, 1, 3)
        features[0, 0, 0, :2] = features[0, 1, 0, 2] = 1
        labeler, regions = self.labeler(), torch.tensor([[[1, 1, 0]]]).bool()
        labeler.learn(
            features, features, torch.tensor([[[0.6, 0.8, 0.9]]]), regions, [torch.tensor([1])], [torch.tensor([0])]
        )
        assert labeler.prototypes.vectors[1, 0].tolist() == [1, 0]
