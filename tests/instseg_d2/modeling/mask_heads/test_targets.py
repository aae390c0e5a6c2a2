import pytest
import torch
from detectron2.structures import Boxes, Instances, PolygonMasks

from instseg_d2.modeling.mask_heads.targets import crop_targets, supervised
from instseg_d2.testing import fake_instances

BOXES = [[0, 0, 8, 8], [8, 4, 24, 12]]


def regions(boxes=BOXES, has_mask=None):
    instances = fake_instances(32, 32, boxes, range(len(boxes)))
    instances.proposal_boxes = instances.gt_boxes.clone()
    if has_mask is not None:
        instances.gt_has_mask = torch.tensor(has_mask)
    return instances


def as_polygons(instances):
    polygons = [[[x0, y0, x1, y0, x1, y1, x0, y1]] for x0, y0, x1, y1 in instances.gt_boxes.tensor.tolist()]
    instances.gt_masks = PolygonMasks(polygons)
    return instances


def test_without_the_flag_all_regions_are_supervised():
    rows, chosen = supervised([regions(), regions(BOXES[:1])])
    assert rows.tolist() == [True, True, True]
    assert [len(x) for x in chosen] == [2, 1]


def test_the_flag_chooses_and_images_without_a_region_fall_away():
    bare = Instances((32, 32), proposal_boxes=Boxes(torch.zeros(0, 4)))
    rows, chosen = supervised([regions(has_mask=[False, True]), bare, regions(has_mask=[False, False])])
    assert rows.tolist() == [False, True, False, False]
    assert [x.gt_classes.tolist() for x in chosen] == [[1]]


@pytest.mark.parametrize("kind", [lambda x: x, as_polygons])
def test_a_mask_that_fills_its_box_is_all_ones(kind):
    targets = crop_targets([kind(regions())], 6)
    assert targets.dtype == torch.float32
    assert targets.shape == (2, 6, 6)
    assert (targets == 1).all()


@pytest.mark.parametrize("kind", [lambda x: x, as_polygons])
def test_a_box_twice_as_wide_sees_its_object_in_the_left_half(kind):
    instances = kind(regions([[4, 4, 12, 12]]))
    instances.proposal_boxes = Boxes(torch.tensor([[4.0, 4, 20, 12]]))
    expected = torch.zeros(8, 8)
    expected[:, :4] = 1
    assert torch.equal(crop_targets([instances], 8)[0], expected)


def test_another_field_can_be_cut_out():
    instances = regions()
    instances.gt_occluders = regions([[16, 16, 32, 32]] * 2).gt_masks
    assert crop_targets([instances], 4, "gt_occluders").sum() == 0
