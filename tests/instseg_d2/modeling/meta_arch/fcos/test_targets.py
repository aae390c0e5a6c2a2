"""Assignment of objects to locations, and what is collected at the positives, by hand.

Strides 8, 16, 32. Locations lie at 4 + 8i, 8 + 16i, 16 + 32i. An object of the first level is at most 64 px from any
side, of the second 64 to 128, of the third more. Positives lie less than 1.5 strides from its center.
"""

import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from torch import nn

from instseg_d2.data.errors import DatasetError
from instseg_d2.data.shared_map import SharedBoxes
from instseg_d2.modeling.meta_arch.fcos.model import FCOS
from instseg_d2.modeling.meta_arch.fcos.targets import batch_gt_inds, mask_or_box_centers

SIZE = (128, 160)
STRIDES = (8, 16, 32)
# An L: a bar of 8 x 64 px, and one of 56 x 8 px at its foot. The middle of its box lies outside.
L_BOX = [8, 8, 72, 72]
L_CENTER = [(512 * 12 + 448 * 44) / 960, (512 * 40 + 448 * 68) / 960]


class NoBackbone(Backbone):
    def forward(self, x):
        raise NotImplementedError("the targets need the strides alone")

    def output_shape(self):
        return {f"p{level}": ShapeSpec(channels=1, stride=stride) for level, stride in enumerate(STRIDES, start=3)}


def fcos(**kwargs):
    return FCOS(
        backbone=NoBackbone(), head=nn.Identity(), num_classes=3, pixel_mean=[0.0] * 3, pixel_std=[1.0] * 3, **kwargs
    )


def truth(boxes, masks=None, has_mask=None):
    corners = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    instances = Instances(SIZE, gt_boxes=Boxes(corners), gt_classes=torch.arange(len(corners)) % 3)
    if masks is not None:
        instances.gt_masks = masks
    if has_mask is not None:
        instances.gt_has_mask = torch.tensor(has_mask)
    return instances


def rectangles(*parts_of_each):
    masks = torch.zeros(len(parts_of_each), *SIZE, dtype=torch.bool)
    for mask, parts in zip(masks, parts_of_each, strict=True):
        for x0, y0, x1, y1 in parts:
            mask[y0:y1, x0:x1] = True
    return BitMasks(masks)


def l_shape():
    return rectangles([(8, 8, 16, 72), (16, 64, 72, 72)])


def maps(images, channels, value=0.0):
    return [torch.full((images, channels, SIZE[0] // s, SIZE[1] // s), value, requires_grad=True) for s in STRIDES]


def assign(model, *truths):
    return model.assign(model.anchor_generator(maps(1, 1)), truths)


def positives(instances, **kwargs):
    """{ground-truth index: {(level, x, y), ...}}"""
    targets = assign(fcos(**kwargs), instances)
    image, location = targets.positive_indices()
    assert (image == 0).all()
    assert torch.equal((targets.labels[0] != 3).nonzero()[:, 0], location)
    found = {}
    for index in location.tolist():
        x, y = targets.locations[index].tolist()
        match = targets.matched[0, index].item()
        found.setdefault(match, set()).add((targets.levels[index].item(), x, y))
        assert targets.labels[0, index] == instances.gt_classes[match]
        assert torch.equal(targets.boxes[0, index], instances.gt_boxes.tensor[match])
    return found


def grid(level, xs, ys):
    return {(level, x, y) for x in xs for y in ys}


def test_middle_of_a_small_box():
    assert positives(truth([[10, 10, 50, 50]])) == {0: grid(0, (20, 28, 36), (20, 28, 36))}


def test_exactly_one_and_a_half_strides_off_is_outside():
    assert positives(truth([[0, 0, 48, 48]])) == {0: grid(0, (20, 28), (20, 28))}


def test_radius_is_a_setting():
    assert positives(truth([[0, 0, 48, 48]]), center_sampling_radius=0.6) == {0: grid(0, (20, 28), (20, 28))}
    assert positives(truth([[0, 0, 48, 48]]), center_sampling_radius=2.0) == {
        0: grid(0, (12, 20, 28, 36), (12, 20, 28, 36))
    }


def test_distance_to_the_farthest_side_chooses_the_level():
    """(60, 60) is within 64 px of all sides; on the second level only (56, 56) is, by being exactly 64 px away."""
    second = grid(1, (40, 56, 72), (40, 56, 72)) - {(1, 56, 56)}
    assert positives(truth([[0, 0, 120, 120]])) == {0: {(0, 60, 60)} | second}


def test_last_level_has_no_upper_end():
    found = positives(truth([[-400, -400, 540, 540]]))
    assert found == {0: grid(2, (48, 80, 112), (48, 80, 112))}


@pytest.mark.parametrize("smaller", [0, 1])
def test_smaller_box_wins_whatever_the_order(smaller):
    boxes = [[10, 10, 50, 50], [18, 18, 42, 42]]
    ordered = boxes if smaller == 1 else boxes[::-1]
    assert positives(truth(ordered)) == {smaller: grid(0, (20, 28, 36), (20, 28, 36))}


def test_overlapping_boxes_share_out_their_locations():
    found = positives(truth([[10, 10, 50, 50], [30, 10, 58, 50]]))
    assert found == {0: grid(0, (20, 28), (20, 28, 36)), 1: grid(0, (36, 44, 52), (20, 28, 36))}


def test_tiny_objects():
    found = positives(truth([[3.5, 3.5, 4.5, 4.5], [5, 5, 6, 6], [4, 4, 5, 5]]))
    assert found == {0: {(0, 4, 4)}}


def test_boxes_outside_of_the_image():
    found = positives(truth([[-60, -60, -10, -10], [-8, -8, 20, 20], [300, 300, 340, 340]]))
    assert found == {1: grid(0, (4, 12), (4, 12))}


def test_empty_box_has_no_positives():
    assert positives(truth([[20, 20, 20, 40], [28, 28, 28, 28]])) == {}


def test_first_object_centered_on_the_image_border_does_not_hide_the_others():
    found = positives(truth([[-8, 16, 8, 32], [50, 10, 90, 50]]))
    assert found == {0: {(0, 4, 20), (0, 4, 28)}, 1: grid(0, (60, 68, 76), (20, 28, 36))}


def test_no_objects():
    assert positives(truth([])) == {}
    assert positives(truth([]), center_sampling="mass") == {}


def test_center_of_mass_of_an_l():
    instances = truth([L_BOX], l_shape())
    torch.testing.assert_close(mask_or_box_centers(instances), torch.tensor([L_CENTER]))
    assert positives(instances, center_sampling="mass") == {0: grid(0, (20, 28, 36), (44, 52, 60))}
    assert positives(instances) == {0: grid(0, (36, 44), (36, 44))}


def test_region_around_the_mass_is_clipped_to_the_box():
    """Mass at (18, 18): 6 to 30 px are near enough, and inside begins at 16."""
    instances = truth([[16, 16, 56, 56]], rectangles([(16, 16, 20, 20)]))
    assert positives(instances, center_sampling="mass") == {0: grid(0, (20, 28), (20, 28))}


def test_mass_of_polygons():
    corners = np.array([8, 8, 16, 8, 16, 64, 72, 64, 72, 72, 8, 72], dtype=np.float64)
    centers = mask_or_box_centers(truth([L_BOX], PolygonMasks([[corners]])))
    torch.testing.assert_close(centers, torch.tensor([L_CENTER]), atol=0.6, rtol=0)


def test_mass_of_a_hidden_mask_is_not_looked_at():
    """Whatever lies in a mask that training may not see, the targets are those of the box."""
    boxes = [L_BOX, [60, 60, 100, 100]]
    expected = positives(truth(boxes))
    for hidden in (l_shape().tensor[0], torch.rand(SIZE) > 0.9):
        masks = BitMasks(torch.stack([hidden, rectangles([(60, 60, 100, 100)]).tensor[0]]))
        assert positives(truth(boxes, masks, [False, True]), center_sampling="mass") == expected
    visible = truth(boxes, BitMasks(torch.stack([l_shape().tensor[0], masks.tensor[1]])), [True, False])
    assert positives(visible, center_sampling="mass")[0] == grid(0, (20, 28, 36), (44, 52, 60))


def test_empty_mask_falls_back_to_the_box():
    instances = truth([L_BOX], rectangles([]))
    assert mask_or_box_centers(instances).tolist() == [[40.0, 40.0]]


def test_missing_masks_are_an_error_only_where_mass_is_asked_for():
    with pytest.raises(DatasetError, match=r"\(128, 160\).*use_instance_mask=True"):
        positives(truth([L_BOX]), center_sampling="mass")
    assert len(positives(truth([L_BOX]))) == 1
    hidden = truth([L_BOX], has_mask=[False])
    assert positives(hidden, center_sampling="mass") == positives(hidden)


def test_fields_of_positives():
    """Three objects of classes 0 and 1, 0 in two images, none in a third."""
    model = fcos()
    truths = [truth([[64, 8, 80, 24], [10, 10, 50, 50]]), truth([]), truth([[0, 0, 120, 120]])]
    predictions = [maps(3, 3), maps(3, 4, 1.0), maps(3, 1), maps(3, 5)]
    with torch.no_grad():
        predictions[0][0][0, :, 3, 3] = torch.tensor([1.0, 3.0, 2.0])
        predictions[2][0][0, 0, 3, 3] = -1.0
        predictions[3][0][0, :, 3, 3] = torch.arange(5.0)
    found = model.positives(predictions, assign(model, *truths))
    first, second, third = found

    large = [[x, y] for y in (20, 28, 36) for x in (20, 28, 36)]
    small = [[68, 12], [76, 12], [68, 20], [76, 20]]
    rows = sorted(large + small, key=lambda point: point[::-1])
    assert first.locations.tolist() == rows
    assert first.gt_inds.tolist() == first.gt_classes.tolist() == [int(row in large) for row in rows]
    assert first.fpn_levels.tolist() == [0] * 13
    assert torch.equal(first.gt_boxes.tensor, truths[0].gt_boxes.tensor[first.gt_inds])
    central = rows.index([28, 28])
    scores = torch.full((13,), 0.25)
    scores[central] = torch.tensor(3.0).sigmoid() * torch.tensor(-1.0).sigmoid()
    torch.testing.assert_close(first.scores, scores)
    assert first.pred_boxes.tensor[central].tolist() == [20, 20, 36, 36]
    assert first.extra[central].tolist() == [0, 1, 2, 3, 4]
    assert not first.scores.requires_grad
    assert not first.pred_boxes.tensor.requires_grad

    assert (len(second), second.extra.shape, len(second.gt_boxes)) == (0, (0, 5), 0)
    assert third.locations[0].tolist() == [60, 60]
    assert third.fpn_levels.tolist() == [0] + [1] * 8
    assert third.image_size == SIZE
    assert batch_gt_inds(found, truths).tolist() == first.gt_inds.tolist() + [2] * 9


def test_extra_vector_passes_its_gradient_to_the_location():
    model = fcos()
    predictions = [maps(1, 3), maps(1, 4), maps(1, 1), maps(1, 2)]
    (found,) = model.positives(predictions, assign(model, truth([[10, 10, 50, 50]])))
    found.extra[:, 1].sum().backward()
    expected = torch.zeros(1, 2, 16, 20)
    expected[:, 1, 2:5, 2:5] = 1
    assert torch.equal(predictions[3][0].grad, expected)
    assert predictions[0][0].grad is None


def test_no_positives_keep_the_graph_of_the_extra_output():
    model, extra = fcos(), nn.Conv2d(1, 5, 1)
    predictions = [maps(2, 3), maps(2, 4), maps(2, 1), [extra(level) for level in maps(2, 1, 1.0)]]
    found = model.positives(predictions, assign(model, truth([]), truth([])))
    sum(x.extra.sum() for x in found).backward()
    assert extra.weight.grad.abs().sum() == 0
    assert len(batch_gt_inds(found, [truth([]), truth([])])) == 0


def test_head_without_extra_output_gives_positives_without_it():
    (found,) = fcos().positives([maps(1, 3), maps(1, 4), maps(1, 1)], assign(fcos(), truth([[10, 10, 50, 50]])))
    assert len(found) == 9
    assert not found.has("extra")


def test_background_in_ignored_boxes_is_ignored():
    """Locations are at 4, 12, 20, 28, ...; 8, 24, 40, ...; 16, 48, ... The object is predicted at 12 and 20."""
    model = fcos()
    objects = truth([[0, 0, 32, 32]])
    before = assign(model, objects)
    # The edge of the first box runs through 28, which is outside; the second has no location of the third level.
    objects.gt_ignored = SharedBoxes(torch.tensor([[0.0, 0.0, 28.0, 28.0], [100.0, 20.0, 119.0, 45.0]]), 1)
    targets = assign(model, objects)
    assert torch.equal(targets.matched, before.matched)
    x, y = targets.locations.T
    first, second = (x < 28) & (y < 28), (x > 100) & (x < 119) & (y > 20) & (y < 45)
    expected = torch.where((first | second) & (before.labels[0] == 3), -1, before.labels[0])
    assert torch.equal(targets.labels[0], expected)
    ignored = [tuple(at) for at in targets.locations[targets.labels[0] == -1].tolist()]
    of_first = [(4, 4), (12, 4), (20, 4), (4, 12), (4, 20)]
    of_second = [(108, 28), (116, 28), (108, 36), (116, 36), (108, 44), (116, 44)]
    coarser = [(8, 8), (24, 8), (104, 24), (8, 24), (24, 24), (104, 40), (16, 16)]
    assert sorted(ignored) == sorted(of_first + of_second + coarser)


def test_ignored_boxes_without_an_object():
    nothing = truth([])
    nothing.gt_ignored = SharedBoxes(torch.tensor([[0.0, 0.0, 10.0, 13.0]]), 0)
    targets = assign(fcos(), nothing)
    assert targets.locations[targets.labels[0] == -1].tolist() == [[4, 4], [4, 12], [8, 8]]
    assert len(targets.positive_indices()[0]) == 0
