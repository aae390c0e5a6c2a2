import cv2
import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks, ROIMasks

from instseg_d2.layers.contours import mask_contours
from instseg_d2.testing import fake_instances
from instseg_d2.visualization.overlay import instance_colours
from instseg_d2.visualization.panels import OBJECT_COLOUR, OCCLUDER_COLOUR, Heat, Panel, Tint, boxes_of
from instseg_d2.visualization.strips import draw_strips

GREY = 100
FADED = int(0.35 * GREY + 25)
SIDE, GAP = 52, 8  # a 20 px box is 40 px in the middle of a panel, see test_crops
NAMES = ["cup", "pear"]


def predictions(boxes=((10, 20, 30, 40),), **fields):
    found = Instances((60, 80))
    found.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    found.pred_classes = torch.zeros(len(boxes), dtype=torch.long)
    found.scores = torch.linspace(0.3, 0.9, len(boxes))
    for name, value in fields.items():
        found.set(name, value)
    return found


def draw(instances, image=None, **options):
    image = np.full((60, 80, 3), GREY, np.uint8) if image is None else image
    return draw_strips(image, instances, NAMES, side=SIDE, **options)


def panels(picture, row=-1):
    """The panels of a row, from below, of a picture without a note."""
    bar = (len(draw(predictions(((10, 20, 30, 40),) * 2))) - len(draw(predictions()))) - SIDE - GAP
    step = bar + SIDE + GAP
    bottom = len(picture) - GAP + (row + 1) * step
    return [picture[bottom - SIDE : bottom, x : x + SIDE] for x in range(GAP, picture.shape[1], SIDE + GAP)]


def heat(value):
    return cv2.applyColorMap(np.array([[round(255 * value)]], np.uint8), cv2.COLORMAP_VIRIDIS)[0, 0]


def test_image_with_its_box():
    image = np.full((60, 80, 3), GREY, np.uint8)
    image[20:40, 10:30] = (10, 20, 250)
    (panel,) = panels(draw(predictions(), image))
    assert (panel[12:40, 12:40] == (10, 20, 250)).all()
    assert (panel[5, 10:40] == 255).all()  # the box, white, and black around it
    assert (panel[4, 10:40] == 0).all()
    assert (panel[10:40, 46] == 255).all()
    assert (panel[:3] == GREY).all()


def test_heat_map_in_the_box():
    _, panel = panels(draw(predictions(pred_thresholds=torch.tensor([[[[0.8, 0.2], [0.2, 0.2]]]]))))
    assert (panel[8:15, 8:15] == heat(0.8)).all()
    assert (panel[37:45, 8:45] == heat(0.2)).all()
    assert (panel[:4] == FADED).all()
    assert (panel[48:] == FADED).all()
    assert (panel[:, :4] == FADED).all()


def test_tint_is_as_strong_as_the_probability_and_outlines_one_half():
    maps = torch.zeros(1, 1, 2, 2)
    maps[..., 0, 0], maps[..., 1, :] = 1, 0.4
    _, panel = panels(draw(predictions(pred_occluder_masks=maps)))
    for (y, x), value in {(10, 10): 1, (10, 42): 0, (42, 25): 0.4}.items():
        expected = FADED * (1 - 0.85 * value) + 0.85 * value * np.array(OCCLUDER_COLOUR)
        assert np.abs(panel[y, x] - expected).max() <= 1
    assert np.abs(panel[6, 15] - np.array(OCCLUDER_COLOUR)).max() <= 20  # the outline, opaque


def test_mask_over_the_image():
    masks = torch.zeros(1, 60, 80, dtype=torch.bool)
    masks[0, 20:30, 10:30] = True
    found = predictions(pred_masks=masks)
    _, panel = panels(draw(found))
    colour = instance_colours(np.array([0]))[0]
    assert np.abs(panel[14, 20] - (GREY + colour) / 2).max() <= 1
    assert (panel[35, 20] == GREY).all()
    found.pred_masks = ROIMasks(torch.tensor([[[1.0, 1.0], [0.0, 0.0]]]))
    _, relative = panels(draw(found))
    assert np.abs(relative[14, 20] - (GREY + colour) / 2).max() <= 1


def test_panels_are_those_of_the_maps_there_are():
    maps = torch.rand(1, 1, 4, 4)
    for count, fields in enumerate([[], ["pred_contours"], ["pred_contours", "pred_probabilities"]], start=1):
        assert len(panels(draw(predictions(**dict.fromkeys(fields, maps))))) == count
    assert len(panels(draw(predictions(pred_contours=maps), panels=[]))) == 2  # as a field that nobody named
    assert len(panels(draw(predictions(gt_something=maps, pred_vectors=torch.rand(1, 256))))) == 1


def test_further_maps_share_a_scale_of_their_own():
    maps = torch.tensor([-2.0, 6.0]).reshape(2, 1, 1, 1).expand(2, 1, 3, 3)
    picture = draw(predictions(((10, 20, 30, 40), (10, 20, 30, 40)), pred_affinities=maps))
    assert (panels(picture, -1)[1][10:40, 10:40] == heat(0)).all()
    assert (panels(picture, -2)[1][10:40, 10:40] == heat(1)).all()
    assert Heat(None, None).fitted([np.array([[np.nan, 3.0]])]).legend[:2] == (3, 4)
    assert Heat(None, 9.0).fitted([]).legend[:2] == (0, 9)


def test_a_panel_of_another_method():
    class Stripes:
        legend = None

        def fitted(self, values):
            return self

        def draw(self, crop, values, colour):
            picture = crop.copy()
            picture[::2] = values[26, 26]
            return picture

    panel = Panel("stripes", lambda instances: instances.scores[:, None, None, None] * 100, Stripes())
    _, drawn = panels(draw(predictions(), panels=[panel]))
    assert (drawn[12:40:2, 12:40] == 30).all()
    assert (drawn[13:40:2, 12:40] == GREY).all()
    assert len(panels(draw(predictions(), panels=[Panel("none", lambda instances: None)]))) == 1


def test_best_scores_come_first_and_the_rest_is_told():
    image = np.full((60, 80, 3), GREY, np.uint8)
    image[20:40, 10:30], image[20:40, 40:60] = 50, 200
    found = predictions(((10, 20, 30, 40), (40, 20, 60, 40)))
    picture = draw(found, image)
    assert panels(picture, -2)[0][26, 26, 0] == 200
    assert panels(picture, -1)[0][26, 26, 0] == 50
    one = draw(found, image, rows=1)
    assert len(one) > len(draw(found[1:], image))  # a line tells it
    assert (one[: len(draw(found[1:], image))] == draw(found[1:], image)[: len(one)]).mean() > 0.9


def test_ground_truth_as_a_loss_sees_it():
    truth = fake_instances(60, 80, [[10, 20, 30, 40]])
    occluders = torch.zeros(1, 60, 80, dtype=torch.bool)
    occluders[0, 20:30, 20:30] = True
    truth.gt_occluders = BitMasks(occluders)
    truth.gt_amodal_masks = truth.gt_masks
    _, occluder, cells, contour, own_contour, _, amodal, mask = panels(draw(truth))
    orange = FADED * 0.15 + 0.85 * np.array(OCCLUDER_COLOUR)
    for picture in (occluder, cells):
        assert np.abs(picture[12:22, 32:42] - orange).max() <= 1
        assert (picture[30:40, 12:40] == FADED).all()
    # At 28 x 28 the occluder ends in the middle: its contour are the 13th and 14th cell and their neighbours.
    expected = mask_contours(truth.gt_occluders.crop_and_resize(truth.gt_boxes.tensor, 28))[0].numpy().astype(bool)
    centres = (6 + (np.arange(28) + 0.5) * 40 / 28).astype(int)
    orange_like = contour[np.ix_(centres, centres)][..., 2] > 150
    assert (orange_like == expected).mean() > 0.97
    assert (own_contour[8:44, 8:44] == FADED).all()  # a mask that fills its box has none
    assert (amodal[10:40, 10:40] == mask[10:40, 10:40]).all()


def test_contours_are_drawn_only_for_losses_with_occluders():
    assert len(panels(draw(fake_instances(60, 80, [[10, 20, 30, 40]])))) == 3  # image, mask at 28 x 28, mask


def test_hidden_masks_are_not_shown():
    truth = fake_instances(60, 80, [[10, 20, 30, 40], [5, 15, 35, 45]])
    truth.gt_has_mask = torch.tensor([False, True])
    truth.gt_ids = torch.tensor([4, 7])
    picture = draw(truth)
    seen, hidden = panels(picture, -2), panels(picture, -1)  # the larger one comes first
    assert all((panel.min(axis=2) != panel.max(axis=2)).any() for panel in seen[1:])
    assert all((panel.min(axis=2) == panel.max(axis=2)).all() for panel in hidden[1:])
    assert (hidden[1] == 255).any()  # it says so


def test_polygons_and_bitmasks_look_the_same():
    truth = fake_instances(60, 80, [[10, 20, 30, 40]])
    expected = draw(truth)
    truth.gt_masks = PolygonMasks([[np.array([10.0, 20, 30, 20, 30, 40, 10, 40])]])
    assert np.array_equal(panels(draw(truth))[-1], panels(expected)[-1])


@pytest.mark.parametrize("side", [40, 160])
@pytest.mark.parametrize("make", [predictions, lambda boxes: fake_instances(60, 80, boxes)])
def test_no_instances(make, side):
    image = np.full((60, 80, 3), GREY, np.uint8)
    picture = draw_strips(image, make(()), side=side)
    assert picture.dtype == np.uint8
    assert (picture < 200).any()  # it says so
    assert (image == GREY).all()


def test_labels_are_never_wider_than_their_panels():
    found = predictions(pred_maps=torch.rand(1, 1, 3, 3))
    titled = draw(found, panels=[Panel("a" * 60, "pred_maps", Tint(OBJECT_COLOUR))])
    plain = draw(found, panels=[Panel("a", "pred_maps", Tint(OBJECT_COLOUR))])
    assert titled.shape == plain.shape
    assert (titled[:, -GAP:] == 255).all()
    long = draw(predictions(), panels=[])
    assert (draw_strips(np.full((60, 80, 3), GREY, np.uint8), found[:0], ["b" * 300], side=SIDE)[:, -GAP:] == 255).all()
    assert (long[:, -GAP:] == 255).all()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"pred_masks": torch.zeros(1, 28, 28)}, r"panel 'mask': maps of shape \(1, 28, 28\) for 1 instances"),
        ({"pred_masks": torch.zeros(1, 2, 28, 28)}, r"panel 'mask': maps of shape \(1, 2, 28, 28\)"),
    ],
)
def test_maps_of_another_shape_are_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        draw(predictions(**fields))


def test_instances_of_another_image_are_refused():
    with pytest.raises(ValueError, match=r"instances of a \(60, 80\) image cannot be drawn over \(60, 81\)"):
        draw(predictions(), np.zeros((60, 81, 3), np.uint8))
    assert boxes_of(predictions()).tensor.tolist() == [[10, 20, 30, 40]]
