import cv2
import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances

from instseg_d2.visualization.panels import OBJECT_COLOUR
from instseg_d2.visualization.sim import Bands, draw_pasting, draw_pseudo_supervision

GREY, SIDE, GAP, STRIDE = 100, 52, 8, 2
FADED = int(0.35 * GREY + 25)


def image():
    return np.full((60, 80, 3), GREY, np.uint8)


def truth(*boxes):
    boxes = torch.tensor(boxes or ((10.0, 20, 30, 40),)).float()
    return Instances((60, 80), gt_boxes=Boxes(boxes), gt_classes=torch.zeros(len(boxes)).long())


def draw(objects=None, **maps):
    return draw_pseudo_supervision(
        image(), truth() if objects is None else objects, ["cup"], stride=STRIDE, side=SIDE, **maps
    )


def panels(picture):
    """The panels of the last strip; a box of 20 px is the 40 px in the middle of each."""
    bottom = len(picture) - GAP
    return [picture[bottom - SIDE : bottom, x : x + SIDE] for x in range(GAP, picture.shape[1], SIDE + GAP)]


def heat(value, colours=cv2.COLORMAP_VIRIDIS):
    return cv2.applyColorMap(np.array([[round(255 * value)]], np.uint8), colours)[0, 0]


def grid(count=1, padded=(36, 44)):
    """Zeros on the grid of a batch that is larger than the image."""
    return torch.zeros(count, *padded)


def test_nothing_but_the_image_without_maps():
    assert len(panels(draw())) == 1


def test_maps_lie_where_their_points_are():
    semantic = grid()
    semantic[0, 10:20, 5:10] = 1.0  # pixels 20 to 40 and 10 to 20: the left half of the box
    _, panel = panels(draw(semantic=semantic))
    assert (panel[6:46, 6:26] == heat(1)).all()
    assert (panel[6:46, 26:46] == heat(0)).all()


def test_share_of_same_colored_neighbors_inside_of_the_box():
    edges = torch.zeros(8, 36, 44, dtype=torch.bool)
    edges[:6, :, :10] = True
    edges[:2, :, 10:] = True
    _, panel = panels(draw(color_edges=edges))
    assert (panel[6:46, 6:26] == heat(0.75)).all()
    assert (panel[6:46, 26:46] == heat(0.25)).all()
    assert (panel[:5] == FADED).all()


def test_pseudo_masks_have_three_bands():
    targets, valid = grid().bool(), grid().bool()
    targets[0, 10:20, 5:8] = True  # pixels 10 to 16
    valid[0, 10:20, 5:8] = True
    valid[0, 10:20, 12:15] = True  # pixels 24 to 30
    targets[0, 10:20, 9] = True  # foreground that does not count: ignored
    _, panel = panels(draw(targets=targets, valid=valid))
    inner = panel[8:44]
    assert np.abs(inner[:, 8:15] - (0.3 * FADED + 0.7 * np.array(OBJECT_COLOUR))).max() <= 1
    assert (inner[:, 36:44] == inner[0, 40]).all()
    assert (inner[0, 40] != FADED).any()
    band = inner[:, 20:32].reshape(-1, 3)
    assert len(np.unique(band, axis=0)) == 2  # stripes and what is between them
    assert 0.4 < (band == FADED).all(axis=1).mean() < 0.6
    assert (panel[:5] == FADED).all()  # nothing is said outside of the box


def test_positives_are_discs_on_one_scale_heavy_ones_above():
    shown = draw(
        truth((10.0, 20, 30, 40), (40, 10, 60, 30)),
        locations=torch.tensor([[15.0, 25.0], [25.0, 35.0], [16.0, 25.0], [50.0, 20.0]]),
        gt_inds=torch.tensor([0, 0, 0, 1]),
        weights=torch.tensor([0.6, 0.3, 0.1, 1.0]),
    )
    _, panel = panels(shown)  # the lower strip: of equal boxes, that of the second
    assert (panel[27, 27] == heat(1, cv2.COLORMAP_PLASMA)).all()
    only_first = draw(
        locations=torch.tensor([[15.0, 25.0], [25.0, 35.0], [16.0, 25.0]]),
        gt_inds=torch.zeros(3).long(),
        weights=torch.tensor([0.6, 0.3, 0.1]),
    )
    _, panel = panels(only_first)
    assert (panel[17, 17] == heat(1, cv2.COLORMAP_PLASMA)).all()  # (15 - 10) * 2 + 6, and its pixel is 2 x 2
    assert (panel[37, 37] == heat(0.5, cv2.COLORMAP_PLASMA)).all()
    assert (panel[17, 37] == FADED).all()


def test_all_panels_and_many_objects():
    objects = truth(*[(10.0 + i, 20, 30 + i, 40) for i in range(5)])
    count = len(objects)
    picture = draw(
        objects,
        rows=3,
        color_edges=torch.ones(8, 36, 44, dtype=torch.bool),
        semantic=grid(count),
        instance=grid(count),
        targets=grid(count).bool(),
        valid=grid(count).bool(),
        locations=torch.zeros(0, 2),
        gt_inds=torch.zeros(0).long(),
        weights=torch.zeros(0),
    )
    assert len(panels(picture)) == 6
    assert len(picture) < len(draw(objects, semantic=grid(count)))


def test_image_without_objects():
    empty = truth()[:0]
    picture = draw(empty, semantic=grid(0), targets=grid(0).bool(), valid=grid(0).bool())
    assert picture.shape[1] > 2 * SIDE


def test_maps_of_another_image():
    with pytest.raises(ValueError, match="cannot be drawn over"):
        draw_pseudo_supervision(image()[:50], truth(), stride=2)


def test_bands_have_no_scale():
    assert Bands().fitted([]).legend is None


def test_pasting_before_and_after():
    objects = truth((10.0, 20, 30, 40), (50, 10, 70, 30))
    masks = torch.zeros(2, 60, 80, dtype=torch.bool)
    masks[1, 5:35, 45:75] = True
    after = Instances(
        (60, 80),
        gt_boxes=Boxes(torch.tensor([[10.0, 20, 30, 40], [45, 5, 75, 35]])),
        gt_classes=torch.tensor([0, 0]),
        gt_masks=BitMasks(masks),
        gt_has_mask=torch.tensor([False, True]),
        gt_pasted=torch.tensor([False, True]),
    )
    picture = draw_pasting(image(), objects, image() + 50, after, side=80)
    left, right = np.split(picture[22:82], 2, axis=1)
    assert left[50, 75].tolist() == [GREY] * 3
    assert right[50, 75].tolist() == [GREY + 50] * 3
    assert left[15, 60].tolist() == [GREY] * 3  # no mask before
    assert np.abs(right[28, 60].astype(int) - GREY - 50).max() > 20  # a tinted one after
    assert left.shape == right.shape
    assert objects.has("gt_has_mask") is False
