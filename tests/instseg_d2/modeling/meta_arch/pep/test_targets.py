"""Which cells stand for which objects: counted out by hand on small grids."""

import pytest
import torch
from detectron2.structures import Boxes

from instseg_d2.modeling.meta_arch.pep.targets import (
    CellAssigner,
    CellGrid,
    mask_coverage,
    mask_targets,
    prepare_truth,
    sample_originals,
)
from instseg_d2.testing import fake_instances

K = 3
EVERY_SIZE = [(1, 1000)]


def grid(*shapes, height=64, width=96):
    return CellGrid(tuple(shapes), height, width, torch.device("cpu"))


def assign(boxes, classes=None, shapes=((8, 12),), ranges=EVERY_SIZE, **options):
    truth = prepare_truth(fake_instances(64, 96, boxes, classes))
    return CellAssigner(num_classes=K, scale_ranges=ranges, **options)(truth, grid(*shapes))


def test_cells_of_the_grid():
    cells = grid((2, 3), (1, 1))
    assert cells.levels.tolist() == [0] * 6 + [1]
    assert cells.centers.tolist() == [[16, 16], [48, 16], [80, 16], [16, 48], [48, 48], [80, 48], [48, 32]]
    assert cells.cell_sizes[[0, 6]].tolist() == [[32, 32], [96, 64]]
    assert cells.normalized(torch.tensor([[0.0, 0.0], [48.0, 64.0]])).tolist() == [[-1, -1], [0, 1]]


def test_central_region_has_the_cell_of_the_center_and_at_most_its_neighbours():
    # Center (20, 28) in cell column 2, row 3 of 8 px; a fifth of the box is 4 px: 18 to 22 and 26 to 30.
    small = assign([[10, 18, 30, 38]], [1])
    assert (small.owners.view(8, 12) == 0).nonzero().tolist() == [[3, 2]]
    assert small.labels.view(8, 12)[3, 2] == 1
    assert (small.labels == K).sum() == 95
    # Center (48, 32) on the corner of four cells; 16 x 12 px around it: columns 5, 6 and rows 3, 4.
    large = assign([[8, 2, 88, 62]]).owners.view(8, 12)
    assert {tuple(cell) for cell in (large == 0).nonzero().tolist()} == {(3, 5), (3, 6), (4, 5), (4, 6), (3, 7), (4, 7)}
    # Without a limit of reach a region of the whole box would be all cells.
    all_of_it = assign([[0, 0, 96, 64]], sigma=1.0).owners.view(8, 12)
    assert {tuple(c) for c in (all_of_it == 0).nonzero().tolist()} == {(r, c) for r in (3, 4, 5) for c in (5, 6, 7)}


def test_whole_mask_and_always_the_cell_of_the_center():
    options = {"semantic_region": "mask", "descriptor_region": "mask"}
    # Covers columns 1 and 2 fully and a quarter of column 3, rows 1 and 2.
    box = assign([[8, 8, 26, 24]], **options).owners.view(8, 12)
    assert {tuple(c) for c in (box == 0).nonzero().tolist()} == {(r, c) for r in (1, 2) for c in (1, 2)}
    tiny = assign([[41, 41, 43, 43]], **options).owners.view(8, 12)
    assert (tiny == 0).nonzero().tolist() == [[5, 5]]
    both = assign([[0, 0, 96, 64]], [2], semantic_region="mask")
    assert (both.labels == 2).sum() == 96
    assert (both.owners == 0).sum() == 6


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_smaller_object_wins(order):
    boxes = [[0, 0, 96, 64], [44, 28, 52, 36]]
    owners = assign([boxes[i] for i in order], descriptor_region="mask").owners.view(8, 12)
    assert owners[4, 6] == order.index(1)
    assert owners[0, 0] == order.index(0)


def test_levels_by_size_and_none_is_lost():
    assigner = CellAssigner(num_classes=K, scale_ranges=[(4, 16), (12, 40)])
    boxes = Boxes(torch.tensor([[0, 0, 1, 1], [0, 0, 14, 14], [0, 0, 16, 16], [0, 0, 30, 30], [0, 0, 90, 90.0]]))
    assert assigner.levels_of(boxes).tolist() == [
        [True, False],
        [True, True],
        [True, True],
        [False, True],
        [False, True],
    ]


def test_no_objects():
    targets = assign([])
    assert (targets.owners == -1).all()
    assert (targets.labels == K).all()


def test_three_hundred_objects_some_below_a_pixel():
    rng = torch.Generator().manual_seed(0)
    corners = torch.rand(300, 2, generator=rng) * torch.tensor([94.0, 62.0])
    truth = fake_instances(64, 96, torch.cat([corners, corners + 0.4], dim=1).tolist())  # masks are empty
    targets = CellAssigner(num_classes=K, scale_ranges=EVERY_SIZE, descriptor_region="mask")(
        prepare_truth(truth), grid((8, 12))
    )
    assert (targets.owners >= 0).sum() > 80
    assert ((targets.labels != K) == (targets.owners >= 0)).all()


def test_hidden_mask_counts_as_its_box():
    truth = fake_instances(64, 96, [[0, 0, 40, 40], [40, 0, 90, 40]])
    truth.gt_masks.tensor[:, 10:] = False  # the center of mass moves up
    truth.gt_has_mask = torch.tensor([True, False])
    assert prepare_truth(truth).gt_centers.tolist() == [[20, 5], [65, 20]]


def test_best_cell_of_a_given_box():
    assigner = CellAssigner(num_classes=K, scale_ranges=EVERY_SIZE)
    scores = torch.zeros(2, 96)
    scores[0, [0, 4 * 12 + 6]] = torch.tensor([0.9, 0.2])  # the first lies outside of the middle
    cells = assigner.best_cells(Boxes(torch.tensor([[8.0, 2, 88, 62], [0, 0, 8, 8]])), scores, grid((8, 12)))
    assert cells.tolist() == [4 * 12 + 6, 0]


def test_unknown_region():
    with pytest.raises(ValueError, match="region 'box'"):
        CellAssigner(num_classes=K, scale_ranges=EVERY_SIZE, semantic_region="box")


def test_coverage_and_targets_of_a_padded_image():
    masks = torch.zeros(3, 6, 8, dtype=torch.bool)
    masks[0, :4, :6] = True  # one cell of 4 px and half of the next
    masks[1, 5, 7] = True  # a pixel: 1/16 of its cell
    coverage = mask_coverage(masks, (2, 3), (8, 12))
    assert coverage[0].tolist() == [[1, 0.5, 0], [0, 0, 0]]
    assert coverage[1].tolist() == [[0, 0, 0], [0, 0.0625, 0]]
    targets = mask_targets(masks, (2, 3), (8, 12))
    assert targets[0].tolist() == [[1, 1, 0], [0, 0, 0]]
    assert targets[1].tolist() == [[0, 0, 0], [0, 1, 0]]  # not lost
    assert targets[2].sum() == 0
    assert mask_targets(masks[:0], (2, 3), (8, 12)).shape == (0, 2, 3)


def test_originals_are_the_best_cells_of_each_object():
    owners = torch.tensor([-1, 0, 0, 0, 1, -1, 2, 2])
    scores = torch.tensor([1.0, 0.1, 0.3, 0.2, 0.5, 0.9, 0.4, 0.6])
    assert sorted(sample_originals(scores, owners, per_object=2, limit=20).tolist()) == [2, 3, 4, 6, 7]
    assert sorted(sample_originals(scores, owners, per_object=1, limit=20).tolist()) == [2, 4, 7]
    # Above the limit the second cells go first.
    chosen = sample_originals(scores, owners, per_object=2, limit=4).tolist()
    assert {2, 4, 7} < set(chosen)
    assert len(sample_originals(scores, owners, per_object=2, limit=2)) == 2
    assert len(sample_originals(scores, torch.full((8,), -1), per_object=2, limit=2)) == 0
