import cv2
import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from instseg_d2.visualization.affinities import object_affinity, pixel_affinity
from instseg_d2.visualization.cpmask import draw_pixel_affinity
from instseg_d2.visualization.strips import draw_strips

CAPTION, GAP, SIDE = 22, 4, 80


def predictions():
    """Two objects of a 60 x 80 image with affinities of 2 x 2 cells. In both, the cell at the upper left looks at the
    one at the lower right alone, all others at themselves."""
    affinities = torch.eye(4).reshape(2, 2, 2, 2)
    affinities[0, 0] = torch.tensor([[0.0, 0.0], [0.0, 1.0]])
    masks = torch.zeros(2, 60, 80, dtype=torch.bool)
    masks[0, 10:20, 10:20] = masks[1, 5:35, 5:45] = True
    return Instances(
        (60, 80),
        pred_boxes=Boxes(torch.tensor([[10.0, 10, 30, 30], [5, 5, 45, 35]])),
        pred_classes=torch.tensor([0, 1]),
        scores=torch.tensor([0.4, 0.8]),
        pred_masks=masks,
        pred_pixel_affinities=torch.stack([affinities, affinities]),
        pred_boundaries=torch.full((2, 1, 4, 4), 0.7),
    )


def test_affinities_of_the_cell_that_a_point_falls_into():
    instances = predictions()
    for point, count, cell in (((19, 12), 2, (1, 1)), ((28, 12), 2, (0, 1)), ((40, 30), 1, (1, 1))):
        found, maps = pixel_affinity(instances, point)
        assert len(found) == len(maps) == count
        first = maps[0, 0]
        assert first.sum() == 4
        assert first[cell] == 4
    found, maps = pixel_affinity(instances, (30, 12))  # a box ends before its right edge
    assert found.scores.tolist() == pytest.approx([0.8])
    assert len(pixel_affinity(instances, (79, 59))[0]) == 0
    instances.remove("pred_pixel_affinities")
    with pytest.raises(ValueError, match="keep_aux=True"):
        pixel_affinity(instances, (12, 12))
    assert object_affinity(instances) is None


def test_affinity_of_an_object_is_the_mean_of_its_pixels():
    instances = predictions()
    assert object_affinity(instances)[0, 0].tolist() == [[0, 1], [1, 2]]
    soft = torch.zeros(2, 1, 4, 4)
    soft[0, 0, :2, :2] = 1  # the upper left cell
    soft[0, 0, :2, 2:] = 0.5  # the upper right, half as sure
    instances.pred_soft_masks = soft
    found = object_affinity(instances)
    assert torch.allclose(found[0, 0], 4 * torch.tensor([[0, 1 / 3], [0, 2 / 3]]), atol=1e-4)
    assert torch.allclose(found.mean((2, 3)), torch.ones(2, 1))
    assert object_affinity(instances[:0]).shape == (0, 1, 2, 2)


def test_picture_of_a_point():
    image = np.full((60, 80, 3), 100, np.uint8)
    picture = draw_pixel_affinity(image, predictions(), (12, 12), ["cup", "pear"], side=SIDE)
    assert (image == 100).all()
    assert picture.shape == (2 * (CAPTION + SIDE + GAP), 4 * (SIDE + GAP), 3)
    # The better object, of the larger box, comes first: 40 px wide, so 52 px around it fill 80.
    affinity = picture[CAPTION : CAPTION + SIDE, SIDE + GAP : 2 * SIDE + GAP]
    scale = 80 / 52
    x, y = round(6 * scale + 39 * scale), round((26 - 15) * scale + 29 * scale)
    highest = cv2.applyColorMap(np.array([[255]], np.uint8), cv2.COLORMAP_VIRIDIS)[0, 0]
    assert np.abs(affinity[y - 2, x - 2].astype(int) - highest).max() <= 3
    one = draw_pixel_affinity(image, predictions(), (12, 12), rows=1, side=SIDE)
    assert one.shape[0] == CAPTION + SIDE + GAP
    without = predictions()
    without.remove("pred_boundaries")
    assert draw_pixel_affinity(image, without, (12, 12), side=SIDE).shape[1] == 3 * (SIDE + GAP)


@pytest.mark.parametrize(
    ("size", "point", "message"), [((60, 80), (79, 59), "in none of 2"), ((50, 80), (12, 12), "cannot be drawn over")]
)
def test_pictures_that_cannot_be_drawn(size, point, message):
    with pytest.raises(ValueError, match=message):
        draw_pixel_affinity(np.zeros((*size, 3), np.uint8), predictions(), point)


def test_strips_show_boundary_and_affinity():
    image, instances = np.full((60, 80, 3), 100, np.uint8), predictions()
    with_both = draw_strips(image, instances, side=60)
    for name in ("pred_boundaries", "pred_pixel_affinities"):
        instances.remove(name)
    assert with_both.shape[1] - draw_strips(image, instances, side=60).shape[1] == 2 * (60 + 8)
