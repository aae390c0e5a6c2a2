import pytest
import torch
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes

from instseg_d2.modeling.tracking.pair_sampling import BACKGROUND, RegionSampler, draw_evenly
from instseg_d2.testing import fake_instances

MATCHER = Matcher([0.3, 0.7], [0, -1, 1])


def truth_of(boxes, ids):
    truth = fake_instances(100, 100, boxes)
    truth.gt_ids = torch.tensor(ids, dtype=torch.int64)
    return truth


def shifted(box, count, step):
    return torch.tensor(box, dtype=torch.float32) + step * torch.arange(1.0, count + 1)[:, None]


@pytest.mark.parametrize(("count", "expected"), [(6, [2, 2, 2]), (7, [2, 2, 3]), (100, [2, 10, 20]), (0, [0, 0, 0])])
def test_groups_get_equally_many(count, expected):
    groups = torch.tensor([5] * 20 + [1] * 2 + [3] * 10)
    drawn = draw_evenly(groups, count)
    assert len(drawn.unique()) == len(drawn) == min(count, 32)
    found = groups[drawn]
    if count == 100:
        assert [(found == group).sum().item() for group in (1, 3, 5)] == expected
    else:
        assert sorted((found == group).sum().item() for group in (1, 3, 5)) == expected


def test_each_member_of_a_group_is_drawn_now_and_then():
    torch.manual_seed(0)
    drawn = torch.cat([draw_evenly(torch.zeros(5, dtype=torch.int64), 2) for _ in range(60)])
    assert torch.bincount(drawn, minlength=5).min() >= 10


def test_regions_have_the_identity_of_their_object():
    truth = truth_of([[0, 0, 20, 20], [50, 50, 90, 90]], [7, 9])
    # IoU with the first object: 0.9, 0.5 (neither), 0.2 (background), 0.
    boxes = Boxes(torch.tensor([[0.0, 0, 20, 18], [0, 0, 20, 10], [0, 0, 20, 4], [50, 0, 60, 10]]))
    sampler = RegionSampler(matcher=MATCHER, regions_per_image=100, positive_fraction=0.5)
    regions = sampler(boxes, truth)
    found = dict(zip(map(tuple, regions.proposal_boxes.tensor.tolist()), regions.gt_ids.tolist(), strict=True))
    assert found == {
        (0, 0, 20, 18): 7,
        (0, 0, 20, 20): 7,
        (50, 50, 90, 90): 9,
        (0, 0, 20, 4): BACKGROUND,
        (50, 0, 60, 10): BACKGROUND,
    }
    assert sorted(sampler(boxes, truth, positives_only=True).gt_ids.tolist()) == [7, 7, 9]


def test_numbers():
    truth = truth_of([[0, 0, 20, 20], [50, 50, 90, 90]], [7, 9])
    boxes = torch.cat(
        [shifted([0, 0, 20, 20], 30, 0.05), shifted([50, 50, 90, 90], 3, 0.1), shifted([20, 0, 40, 20], 60, 0)]
    )
    sampler = RegionSampler(matcher=MATCHER, regions_per_image=16, positive_fraction=0.5)
    regions = sampler(Boxes(boxes), truth)
    # Of the second object there are four with its true box: as many as of the first.
    assert [(regions.gt_ids == number).sum().item() for number in (7, 9, BACKGROUND)] == [4, 4, 8]
    sampler.negatives_per_positive = 0
    assert (sampler(Boxes(boxes), truth).gt_ids != BACKGROUND).all()


def test_backgrounds_are_drawn_from_all_ranges_of_overlap():
    truth = truth_of([[0, 0, 30, 30]], [1])
    # 60 boxes far away, two with an overlap of 0.29, two of 0.15.
    far = torch.tensor([60.0, 60, 90, 90]).repeat(60, 1)
    near = torch.tensor([[0.0, 0, 30, 8.7]] * 2 + [[0.0, 0, 30, 4.5]] * 2)
    sampler = RegionSampler(matcher=MATCHER, regions_per_image=7)
    sampler.negatives_per_positive = 6
    boxes = sampler(Boxes(torch.cat([far, near])), truth).proposal_boxes.tensor
    counts = [((boxes[:, 3] - bottom).abs() < 1e-3).sum().item() for bottom in (90, 8.7, 4.5)]
    assert counts == [2, 2, 2]


def test_no_objects_and_no_boxes():
    sampler = RegionSampler(matcher=MATCHER, regions_per_image=8)
    nothing = truth_of([], [])
    boxes = Boxes(torch.rand(20, 4) + torch.tensor([0.0, 0, 5, 5]))
    regions = sampler(boxes, nothing)
    # As many as for one object.
    assert regions.gt_ids.tolist() == [BACKGROUND] * 3
    assert len(sampler(boxes, nothing, positives_only=True)) == 0
    assert len(sampler(Boxes(torch.zeros(0, 4)), nothing)) == 0
    alone = sampler(Boxes(torch.zeros(0, 4)), truth_of([[0, 0, 9, 9]], [3]))
    assert alone.gt_ids.tolist() == [3]
