import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances, PolygonMasks

from instseg_d2.testing import fake_instances
from instseg_d2.visualization import draw_instances, side_by_side, tile


def test_only_the_mask_and_its_outline_change():
    image = np.full((60, 80, 3), 100, np.uint8)
    drawn = draw_instances(image, fake_instances(60, 80, [[20, 10, 50, 40]]), labels=False)
    changed = (drawn != image).any(axis=2)
    assert changed[12:38, 22:48].all()
    assert not changed[:8].any()
    assert not changed[:, 53:].any()
    assert (image == 100).all()


def test_predictions_below_the_threshold_are_left_out():
    image = np.zeros((40, 40, 3), np.uint8)
    found = Instances((40, 40), pred_boxes=Boxes(torch.tensor([[2.0, 2, 12, 12], [20, 20, 35, 35]])))
    found.scores = torch.tensor([0.9, 0.3])
    found.pred_classes = torch.tensor([0, 1])
    found.pred_masks = torch.zeros(2, 40, 40, dtype=torch.bool)
    found.pred_masks[0, 2:12, 2:12] = True
    found.pred_masks[1, 20:35, 20:35] = True
    drawn = draw_instances(image, found, labels=False)
    assert drawn[5, 5].any()
    assert not drawn[25, 25].any()
    assert draw_instances(image, found, labels=False, score_threshold=0.2)[25, 25].any()


def test_boxes_are_drawn_where_there_are_no_masks():
    instances = fake_instances(40, 40, [[5, 5, 30, 30]])
    instances.remove("gt_masks")
    drawn = draw_instances(np.zeros((40, 40, 3), np.uint8), instances, labels=False)
    assert drawn[5, 15].any()
    assert not drawn[15, 15].any()


def test_polygons_are_drawn_like_bitmasks():
    bits = fake_instances(40, 40, [[5, 5, 30, 30]])
    polygons = fake_instances(40, 40, [[5, 5, 30, 30]])
    polygons.gt_masks = PolygonMasks([[[5, 5, 30, 5, 30, 30, 5, 30]]])
    image = np.zeros((40, 40, 3), np.uint8)
    assert np.array_equal(draw_instances(image, bits), draw_instances(image, polygons))


def test_enlarged_and_labelled():
    drawn = draw_instances(
        np.zeros((40, 50, 3), np.uint8), fake_instances(40, 50, [[5, 5, 30, 30]]), ["thing"], enlarge=3
    )
    assert drawn.shape == (120, 150, 3)
    assert drawn[60, 60].any()


def test_no_instances_give_the_image():
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    assert np.array_equal(draw_instances(image, fake_instances(20, 30, [])), image)


def test_other_size_is_refused():
    with pytest.raises(ValueError, match=r"\(40, 40\).*\(20, 30\)"):
        draw_instances(np.zeros((20, 30, 3), np.uint8), fake_instances(40, 40, []))


def test_sheets_keep_every_picture():
    pictures = [np.full((10 + index, 20, 3), index, np.uint8) for index in range(3)]
    grid = tile(pictures, columns=2, gap=2)
    assert grid.shape == (2 * 14, 2 * 22, 3)
    assert (grid[:10, :20] == 0).all()
    assert (grid[14:26, :20] == 2).all()
    assert (grid[14:, 22:] == 255).all()
    pair = side_by_side(pictures[:2], ["a", "b"])
    assert pair.shape[1] == 2 * 24
