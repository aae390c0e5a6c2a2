import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks

from instseg_d2.data.errors import DatasetError
from instseg_d2.modeling.meta_arch.solov2.targets import GridAssigner
from instseg_d2.testing import fake_instances

CLASSES = 9


def assigner(**changes):
    # 64 px: cells of 8 and of 16 px.
    return GridAssigner(**{"grid_numbers": (8, 4), "scale_ranges": ((1, 24), (16, 64)), **changes})


def assign(truth, size=(16, 16), **changes):
    return assigner(**changes).assign(truth, num_classes=CLASSES, stride=4, mask_size=size)


def test_a_small_object_takes_the_cell_of_its_center():
    targets = assign(fake_instances(64, 64, [[17, 33, 23, 39]], [5]))
    # Center (20, 36): column 2, row 4 of the first grid.
    assert targets.cells.tolist() == [4 * 8 + 2]
    assert targets.objects.tolist() == [0]
    assert targets.labels[34] == 5
    assert (targets.labels == CLASSES).sum() == 64 + 16 - 1


def test_the_central_region_takes_neighbors_but_no_more_than_one_each_way():
    # 40 px wide and high: on the second level, center (32, 32), region from 28 to 36: columns and rows 1 and 2.
    targets = assign(fake_instances(64, 64, [[12, 12, 52, 52]], [2]))
    assert targets.cells.tolist() == [64 + 5, 64 + 6, 64 + 9, 64 + 10]
    # A region of 40 px is cut to 3x3 cells around the cell of the center, column and row 4 of 8.
    wide = assign(fake_instances(64, 64, [[12, 12, 52, 52]], [2]), scale_ranges=((1, 64), (64, 99)), center_size=1.0)
    assert wide.cells.tolist() == [row * 8 + column for row in (3, 4, 5) for column in (3, 4, 5)]


def test_overlapping_ranges_put_an_object_on_two_levels_with_one_target():
    targets = assign(fake_instances(64, 64, [[20, 20, 40, 40]], [1]))
    # Center 30, region from 28 to 32: cells 3 and 4 of 8; cells 1 and 2 of 16 px.
    assert targets.cells.tolist() == [27, 28, 35, 36, 64 + 5, 64 + 6, 64 + 9, 64 + 10]
    assert targets.objects.tolist() == [0] * 8
    assert targets.masks.shape == (1, 16, 16)
    assert targets.masks.sum() == 25
    assert targets.masks[0, 5:10, 5:10].all()


def test_ranges_include_both_ends_and_sizes_beyond_count_as_the_nearest():
    boxes = torch.tensor([[0.0, 0, 16, 16], [0, 0, 24, 24], [0, 0, 25, 25], [0, 0, 0.1, 0.1], [0, 0, 500, 500]])
    expected = [[True, True], [True, True], [False, True], [True, False], [False, True]]
    assert assigner().levels(boxes).tolist() == expected


def test_the_center_is_that_of_mass():
    truth = fake_instances(64, 64, [[8, 8, 20, 12]])
    truth.gt_masks.tensor[0, :, 12:] = False  # what is left has its center in (10, 10), not in (14, 10)
    truth.gt_boxes.tensor[0, 2] = 28.0  # the region reaches from 8 to 12
    assert assign(truth).cells.tolist() == [8 + 1]


def test_the_last_of_two_objects_gives_a_cell_its_class_and_both_train_its_kernel():
    truth = fake_instances(64, 64, [[17, 33, 23, 39], [16, 32, 24, 40]], [5, 3])
    targets = assign(truth)
    assert targets.cells.tolist() == [34, 34]
    assert targets.objects.tolist() == [0, 1]
    assert targets.labels[34] == 3


def test_cells_divide_the_padded_image():
    # The image of 48 x 64 is padded to 64 x 96: cells of the first grid are 12 px wide and 8 px high.
    targets = assign(fake_instances(48, 64, [[25, 33, 31, 39]]), size=(16, 24))
    assert targets.cells.tolist() == [4 * 8 + 2]
    assert targets.masks.shape == (1, 16, 24)


def test_a_center_on_a_border_belongs_to_the_cell_behind_it():
    for number in (3, 7, 40):
        grid = GridAssigner(grid_numbers=(number,), scale_ranges=((1, 2048),))
        borders = torch.arange(number) * 8.0
        points = torch.stack([borders, torch.full_like(borders, 4.0)], dim=1)
        cells, touched = grid.central_cells(points.repeat(1, 2), points, (8 * number, 8 * number))
        assert touched.sum(dim=(1, 2)).tolist() == [1] * number
        assert cells[touched].tolist() == list(range(number))


def test_regions_end_at_the_border_of_the_grid():
    grid = GridAssigner(grid_numbers=(4,), scale_ranges=((1, 2048),), center_size=1.0)
    boxes = torch.tensor([[0.0, 0, 64, 64], [32, 32, 64, 64]])
    centers = torch.tensor([[1.0, 1.0], [63.0, 62.0]])
    cells, touched = grid.central_cells(boxes, centers, (64, 64))
    assert cells[0][touched[0]].tolist() == [0, 1, 4, 5]
    assert cells[1][touched[1]].tolist() == [10, 11, 14, 15]


def test_an_object_smaller_than_a_cell_trains_the_class_alone():
    truth = fake_instances(64, 64, [[20, 36, 21, 37], [17, 33, 19, 35]], [5, 3])
    targets = assign(truth)
    assert targets.labels[34] == 3
    # The second one covers the middle of a cell of the mask features.
    assert targets.objects.tolist() == [1]
    only = assign(truth[:1])
    assert only.labels[34] == 5
    assert len(only.cells) == 0


def test_a_hidden_mask_is_not_looked_at():
    truth = fake_instances(64, 64, [[18, 34, 22, 38], [40, 40, 48, 48]], [5, 3])
    truth.gt_has_mask = torch.tensor([False, True])
    truth.gt_masks.tensor[0] = False
    truth.gt_masks.tensor[0, :4, :4] = True  # elsewhere: must not move the center
    targets = assign(truth)
    assert targets.labels[34] == 5
    assert targets.labels[0] == CLASSES
    assert set(targets.objects.tolist()) == {1}


def test_an_empty_mask_is_nowhere():
    truth = fake_instances(64, 64, [[18, 34, 22, 38]])
    truth.gt_masks.tensor[:] = False
    targets = assign(truth)
    assert (targets.labels == CLASSES).all()
    assert len(targets.cells) == 0


def test_no_objects_and_no_masks_field():
    truth = fake_instances(64, 64, [])
    truth.remove("gt_masks")
    targets = assign(truth)
    assert targets.labels.shape == (80,)
    assert targets.masks.shape == (0, 16, 16)
    assert len(targets.cells) == len(targets.objects) == 0


def test_polygons_and_bitmaps_give_the_same():
    boxes = [[12.0, 12, 52, 52], [4, 20, 20, 40]]
    polygons = [[torch.tensor([x0, y0, x1, y0, x1, y1, x0, y1]).double().numpy()] for x0, y0, x1, y1 in boxes]
    drawn = Instances((64, 64), gt_boxes=Boxes(boxes), gt_classes=torch.tensor([2, 6]), gt_masks=PolygonMasks(polygons))
    expected, found = assign(fake_instances(64, 64, boxes, [2, 6])), assign(drawn)
    assert all(
        torch.equal(getattr(expected, name), getattr(found, name)) for name in ("labels", "cells", "objects", "masks")
    )


def test_objects_without_masks_are_an_error():
    truth = fake_instances(64, 64, [[12, 12, 52, 52]])
    truth.remove("gt_masks")
    with pytest.raises(DatasetError, match="with 1 objects has no ground-truth masks.*use_instance_mask"):
        assign(truth)


def test_as_many_ranges_as_grids_and_none_missing():
    with pytest.raises(ValueError, match="3 grid_numbers, but 2 scale_ranges"):
        GridAssigner(grid_numbers=(8, 4, 2), scale_ranges=((1, 24), (16, 64)))
    with pytest.raises(ValueError, match="gap below 25"):
        GridAssigner(grid_numbers=(8, 4), scale_ranges=((25, 64), (1, 24)))


def test_the_limit_draws_pairs_at_random():
    targets = assign(fake_instances(64, 64, [[20, 20, 40, 40], [12, 12, 52, 52]]))
    assert targets.sample(12) is targets
    drawn = [targets.sample(3) for _ in range(8)]
    everything = set(zip(targets.cells.tolist(), targets.objects.tolist(), strict=True))
    pairs = [set(zip(x.cells.tolist(), x.objects.tolist(), strict=True)) for x in drawn]
    assert all(len(chosen) == 3 and chosen <= everything for chosen in pairs)
    assert len(set.union(*pairs)) > 3


def test_best_cells_are_those_that_training_would_choose():
    grids = assigner()
    scores = torch.zeros(2, grids.num_cells)
    scores[0, [64 + 6, 0]] = torch.tensor([0.3, 0.9])  # cell 0 is far from the object
    scores[1, [27, 64 + 10]] = torch.tensor([0.2, 0.1])
    boxes = Boxes(torch.tensor([[12.0, 12, 52, 52], [20, 20, 40, 40]]))
    assert grids.best_cells(boxes, scores, (64, 64)).tolist() == [64 + 6, 27]
    # Without any score it is one of the allowed ones still.
    assert grids.best_cells(boxes, torch.zeros_like(scores), (64, 64)).tolist() == [64 + 5, 27]
    none = grids.best_cells(Boxes(torch.zeros(0, 4)), scores[:0], (64, 64))
    assert none.shape == (0,)


def test_masks_are_bool_whatever_their_source():
    truth = fake_instances(64, 64, [[12, 12, 52, 52]])
    truth.gt_masks = BitMasks(truth.gt_masks.tensor.to(torch.uint8))
    assert assign(truth).masks.dtype == torch.bool
