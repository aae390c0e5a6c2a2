"""Masks of descriptors on one map or one a level, and the way from descriptors to instances."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.structures import Instances
from torch.nn import functional as F

from instseg_d2.modeling.meta_arch.pep.masks import DescriptorDecoder, LevelFeatures, mask_logits


def nodes(count=3, levels=(0, 1, 0), channels=4, **fields):
    torch.manual_seed(0)
    return Instances(
        (32, 48), descriptors=torch.randn(count, channels), fpn_levels=torch.tensor(levels[:count]), **fields
    )


def test_descriptor_is_the_kernel_of_a_convolution():
    maps, found = torch.randn(2, 4, 8, 12), nodes()
    expected = F.conv2d(maps[1:], found.descriptors[:, :, None, None])[0]
    assert torch.allclose(mask_logits([maps], 1, found), expected, atol=1e-5)
    assert mask_logits([maps], 1, found[:0]).shape == (0, 8, 12)


def test_each_descriptor_on_the_map_of_its_level():
    fine, coarse, found = torch.randn(1, 4, 8, 12), torch.randn(1, 4, 4, 6), nodes()
    logits = mask_logits([fine, coarse], 0, found)
    kernels = found.descriptors[:, :, None, None]
    assert torch.allclose(logits[[0, 2]], F.conv2d(fine, kernels[[0, 2]])[0], atol=1e-5)
    small = F.conv2d(coarse, kernels[[1]])
    assert torch.allclose(logits[1], F.interpolate(small, (8, 12), mode="bilinear")[0, 0], atol=1e-5)


def test_levels_without_descriptors_stay_in_the_graph():
    branch = LevelFeatures(
        input_shape=[ShapeSpec(channels=3, stride=4), ShapeSpec(channels=3, stride=8)],
        conv_dims=[4, 4],
        norm="",
        shared_levels=False,
    )
    maps = branch([torch.randn(1, 3, 8, 12), torch.randn(1, 3, 4, 6)])
    assert [tuple(level.shape) for level in maps] == [(1, 4, 8, 12), (1, 4, 4, 6)]
    for count in (0, 1):
        branch.zero_grad()
        mask_logits(maps, 0, nodes(count)).sum().backward(retain_graph=True)
        assert all(p.grad is not None for p in branch.parameters())


def scene():
    """Probabilities of four masks: two nearly the same, one of another class, one of two cells."""
    masks = torch.full((4, 8, 12), 0.1)
    masks[0, 1:5, 1:5] = 0.9
    masks[1, 1:5, 1:6] = 0.8
    masks[2, 1:5, 1:5] = 0.7
    masks[3, 6, 6:8] = 0.9
    scores, classes = torch.tensor([0.5, 0.9, 0.8, 0.9]), torch.tensor([1, 1, 0, 1])
    return nodes(4, (0, 0, 0, 0), scores=scores, pred_classes=classes), masks


def decode(purified=True, **options):
    found, masks = scene()
    return DescriptorDecoder(**options).decode_nodes(
        found, masks, min_areas=torch.full((4,), 2), stride=4, purified=purified
    )


def test_scores_are_weighted_by_the_masks_and_small_ones_left_out():
    found = decode()
    assert found.scores.tolist() == pytest.approx([0.72, 0.56, 0.45])
    assert found.pred_classes.tolist() == [1, 0, 1]
    assert found.pred_masks.shape == (3, 8, 12)
    assert found.pred_boxes.tensor[0].tolist() == [4, 4, 24, 20]
    assert len(decode(max_per_image=1)) == 1
    assert len(decode(nms_score_thresh=0.5)) == 2


@pytest.mark.parametrize(
    ("purified", "matrix_nms", "lowered"), [(True, None, False), (False, None, True), (True, True, True)]
)
def test_matrix_nms_where_nothing_else_removes_duplicates_or_as_asked(purified, matrix_nms, lowered):
    found = decode(purified, matrix_nms=matrix_nms)
    overlap = 16 / 20
    expected = 0.45 * torch.exp(torch.tensor(-2 * overlap**2)).item() if lowered else 0.45
    assert found.scores[-1].item() == pytest.approx(expected, rel=1e-4)
    assert len(decode(False, matrix_nms=False)) == 3


def test_no_node():
    found, masks = scene()
    nothing = DescriptorDecoder().decode_nodes(found[:0], masks[:0], min_areas=torch.zeros(0), stride=4, purified=False)
    assert len(nothing) == 0
    assert nothing.pred_masks.shape == (0, 8, 12)
