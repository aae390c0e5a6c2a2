"""Windows, key pixels and mined descriptors on scenes made by hand."""

import math

import pytest
import torch
from detectron2.structures import Boxes, Instances
from torch.nn import functional as F

from instseg_d2.modeling.meta_arch.pep.excavate import DynamicWindow, ModulatedWindow, ObjectExcavating
from instseg_d2.modeling.meta_arch.pep.targets import CellGrid, prepare_truth
from instseg_d2.testing import fake_instances

C = 4
GRID = CellGrid(((16, 24), (8, 12)), 64, 96, torch.device("cpu"))
# Two objects that touch, of one class, and one far away.
TOUCHING = [[8, 16, 24, 32], [24, 16, 40, 32], [80, 50, 90, 60]]


def module(**options):
    torch.manual_seed(0)
    return ObjectExcavating(**{"channels": C, "num_classes": 3, "window_size": 12, "conv_dims": [8], **options})


def features(count=1):
    rng = torch.Generator().manual_seed(0)
    return [torch.randn(count, C, *shape, generator=rng).requires_grad_() for shape in GRID.shapes]


def originals(excavating, boxes, objects, levels=None):
    boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    count = len(boxes)
    return Instances(
        (64, 96),
        descriptors=torch.ones(count, C, requires_grad=True),
        fpn_levels=torch.zeros(count, dtype=torch.int64) if levels is None else torch.tensor(levels),
        locations=boxes.get_centers(),
        windows=excavating.windows(boxes),
        gt_inds=torch.tensor(objects, dtype=torch.int64),
    )


def test_windows_are_three_boxes_wide_and_never_empty():
    windows = module().windows(Boxes(torch.tensor([[8.0, 16, 24, 32], [5, 5, 5, 5]]))).tensor
    assert windows.tolist() == [[-8, 0, 40, 48], [4.5, 4.5, 5.5, 5.5]]


def test_descriptor_weighs_the_channels_of_the_window():
    head = ModulatedWindow(C, [])
    windows, descriptors = torch.randn(3, C, 5, 5), torch.randn(3, C)
    expected = head.logits(torch.einsum("ncij,nc->ncij", windows, descriptors))[:, 0]
    assert torch.allclose(head(windows, descriptors), expected)
    assert not torch.allclose(head(windows, descriptors), head(windows, descriptors.roll(1, dims=0)))
    dynamic = DynamicWindow(C)
    kernel = dynamic.kernel(descriptors)
    expected = torch.einsum("ncij,nc->nij", windows, kernel) + dynamic.logits.bias
    assert torch.allclose(dynamic(windows, descriptors), expected, atol=1e-6)


def test_window_shows_the_part_of_the_map_around_the_object():
    excavating = module(window_size=4)
    # Channel 0 is x and channel 1 is y, in pixels, of the cells' middles.
    maps = [torch.zeros(1, C, *shape) for shape in GRID.shapes]
    for level, stride in zip(maps, (4, 8), strict=True):
        level[0, 0] = (torch.arange(level.shape[3]) + 0.5) * stride
        level[0, 1] = ((torch.arange(level.shape[2]) + 0.5) * stride)[:, None]
    found = originals(excavating, [[40, 24, 56, 40]] * 2, [0, 0], levels=[0, 1])  # windows from (24, 8) to (72, 56)
    pooled = excavating._pool(maps, GRID, [found])
    for window in pooled:
        assert window[0, 0].tolist() == pytest.approx([30, 42, 54, 66], abs=1e-3)
        assert window[1, :, 0].tolist() == pytest.approx([14, 26, 38, 50], abs=1e-3)


def test_key_pixels_are_the_centers_of_others_in_the_window_and_not_its_own():
    excavating, truth = module(), prepare_truth(fake_instances(64, 96, TOUCHING))
    found = originals(excavating, TOUCHING[:1], [0])  # window (-8, 0) to (40, 48): cells of 4 px
    keys, source, cells = excavating.true_keys(found, truth)
    assert source.tolist() == [0]
    assert cells.tolist() == [[10, 6]]  # the center (32, 24)
    assert keys.gt_inds.tolist() == [1]
    assert keys.locations.tolist() == [[34, 26]]  # the middle of that cell
    # The middle one sees only the first: the third is too far away.
    _, source, cells = excavating.true_keys(originals(excavating, TOUCHING[1:2], [1]), truth)
    assert cells.tolist() == [[2, 6]]  # of the window from (8, 0)
    alone, source, _ = excavating.true_keys(originals(excavating, TOUCHING[2:], [2]), truth)
    assert len(alone) == len(source) == 0


def test_nearest_keys_of_each_original_and_a_limit_for_the_image():
    row = [[40 + 4 * i, 30, 44 + 4 * i, 34] for i in (0, 1, -2, 2, 3)]
    truth = prepare_truth(fake_instances(64, 96, row))
    excavating = module(window_scale=20, train_keys_per_original=2)
    found = originals(excavating, row[:1], [0])
    keys, source, _ = excavating.true_keys(found, truth)
    assert len(source) == 4
    assert sorted(keys.gt_inds.tolist()) in ([1, 2], [1, 3])
    keys, source, _ = module(window_scale=20, train_keys_per_image=3).true_keys(
        originals(excavating, row[:3], [0, 1, 2]), truth
    )
    assert len(keys) == 3
    assert len(source) == 12


def test_missed_twin_is_found_where_the_feature_has_its_center():
    """Of two objects of one class that touch, one is perceived: its window finds the other."""
    excavating = module(window_size=12, conv_dims=[])
    with torch.no_grad():
        excavating.keys.logits.weight.zero_()
        excavating.keys.logits.weight[0, 0, 1, 1] = 10  # looks at channel 0 alone
        excavating.keys.logits.bias.fill_(-5)
    maps = [torch.zeros(1, C, *shape) for shape in GRID.shapes]
    maps[0][0, 0, 6, 8] = 1  # the cell from (32, 24) on, where the twin's center is
    found = originals(excavating, TOUCHING[:1], [0])
    mined, (key_map,) = excavating.inference(maps, GRID, [found])
    assert key_map.shape == (1, 12, 12)
    assert len(mined[0]) == 1
    assert mined[0].sources.tolist() == [0]
    assert (mined[0].locations[0] - torch.tensor([34.0, 26.0])).abs().max() <= 2
    assert mined[0].fpn_levels.tolist() == [0]
    assert mined[0].descriptors.shape == (1, C)
    # A descriptor that ignores the channel finds nothing.
    found.descriptors = torch.tensor([[0.0, 1, 1, 1]])
    assert len(excavating.inference(maps, GRID, [found])[0][0]) == 0


def test_peaks_are_few_above_the_threshold_and_inside_the_image():
    excavating = module(keys_per_original=2)
    found = originals(excavating, TOUCHING[:1], [0])  # columns 0 and 1 lie left of the image
    maps = torch.zeros(1, 12, 12)
    maps[0, 5, 1] = 0.95
    maps[0, 5, 5], maps[0, 5, 6] = 0.9, 0.8  # neighbours: one peak
    maps[0, 9, 9], maps[0, 2, 9] = 0.4, 0.29
    keys = excavating.peaks(maps, found)
    assert keys.locations.tolist() == [[14, 22]]
    assert keys.scores.tolist() == pytest.approx([0.9])
    excavating.keys_per_original = 3
    assert excavating.peaks(maps, found).locations.tolist() == [[14, 22], [30, 38]]
    assert len(excavating.peaks(maps[:0], found[:0])) == 0


def losses(excavating, boxes=TOUCHING, objects=(0, 1, 2), maps=None, truth=None):
    truth = truth or prepare_truth(fake_instances(64, 96, TOUCHING, [0, 1, 2]))
    maps = maps or features()
    return excavating.losses(maps, GRID, [originals(excavating, boxes, list(objects))], [truth])


def test_losses_are_those_of_the_definition():
    excavating, maps = module(key_loss="bce"), features()
    found = originals(excavating, TOUCHING, [0, 1, 2])
    targets = torch.zeros(3, 12, 12)
    targets[0, 6, 10] = targets[1, 6, 2] = 1
    logits = excavating.key_logits(maps, GRID, [found])
    values, (mined,) = losses(excavating, maps=maps)
    assert torch.allclose(values["loss_excavate"], F.binary_cross_entropy_with_logits(logits, targets))
    assert sorted(mined.gt_inds.tolist()) == [0, 1]
    expected = F.cross_entropy(excavating.classes(mined.descriptors), mined.gt_inds)  # object i has class i
    assert torch.allclose(values["loss_excavate_class"], expected)
    # At probability 0.5 everywhere: 2 of 432 cells are positive, and divide the focal sum.
    excavating = module(key_weight=2.0)
    torch.nn.init.zeros_(excavating.keys.logits.weight)
    torch.nn.init.zeros_(excavating.keys.logits.bias)
    focal = (2 * 0.25 + 430 * 0.75) * 0.25 * math.log(2) / 2
    assert losses(excavating)[0]["loss_excavate"].item() == pytest.approx(2 * focal, rel=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"interaction": "dynamic", "classifier": "sigmoid"},
        {"key_loss": "gaussian", "sample_feature": True},
        {"key_loss": "bce"},
    ],
)
def test_gradients_reach_every_parameter_and_the_features(options):
    excavating, maps = module(**options), features()
    found = [originals(excavating, TOUCHING, [0, 1, 2])]
    truth = [prepare_truth(fake_instances(64, 96, TOUCHING, [0, 1, 2]))]
    values, mined = excavating.losses(maps, GRID, found, truth)
    assert all(value.isfinite() for value in values.values())
    (sum(values.values()) + mined[0].descriptors.sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in excavating.parameters())
    assert maps[0].grad.abs().sum() > 0
    assert found[0].descriptors.grad.abs().sum() > 0


def test_detached_descriptors_get_no_gradient():
    excavating = module(detach=True)
    found = [originals(excavating, TOUCHING, [0, 1, 2])]
    values, _ = excavating.losses(features(), GRID, found, [prepare_truth(fake_instances(64, 96, TOUCHING))])
    sum(values.values()).backward()
    assert found[0].descriptors.grad is None


def test_no_original_and_no_neighbour_give_finite_losses_with_a_graph():
    for boxes, objects in (([], []), (TOUCHING[2:], [2])):
        excavating = module(sample_feature=True)
        values, (mined,) = losses(excavating, boxes, objects)
        assert len(mined) == 0
        assert values["loss_excavate_class"] == 0
        assert values["loss_excavate"].isfinite()
        (sum(values.values()) + mined.descriptors.sum()).backward()
        assert all(p.grad is not None for p in excavating.parameters())


def test_mined_descriptor_depends_on_place_and_feature_as_asked():
    for sampled in (False, True):
        excavating = module(sample_feature=sampled)
        keys = Instances((64, 96), sources=torch.tensor([0, 0]), locations=torch.tensor([[34.0, 26.0], [34.0, 30.0]]))
        found = originals(excavating, TOUCHING[:1], [0])
        maps = features()
        (first,) = excavating.mine(maps, GRID, [found], [keys])
        assert not torch.allclose(first.descriptors[0], first.descriptors[1])
        before = first.descriptors.clone()
        (again,) = excavating.mine([m + 1 for m in maps], GRID, [found], [keys])
        assert torch.allclose(before, again.descriptors) != sampled


@pytest.mark.parametrize("wrong", [{"interaction": "add"}, {"key_loss": "l1"}, {"classifier": "svm"}])
def test_unknown_options(wrong):
    (name, value), *_ = wrong.items()
    with pytest.raises(ValueError, match=f"{name}='{value}'"):
        module(**wrong)
