import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, PolygonMasks

from instseg_d2.testing import fake_instances
from instseg_d2.visualization.overlay import instance_colours
from instseg_d2.visualization.samples import draw_sample, sheets

CAPTION = 22  # height of the bar above a panel
GREY = 100


def instances():
    return fake_instances(60, 80, [[10, 10, 40, 40], [30, 20, 70, 50]], [0, 1])


def draw(truth, **options):
    """The panels, each (60, 80, 3), of a grey image at its own size."""
    sheet = draw_sample(np.full((60, 80, 3), GREY, np.uint8), truth, ["cup", "pear"], side=80, **options)
    return [sheet[CAPTION : CAPTION + 60, start : start + 80] for start in range(0, sheet.shape[1] - 4, 84)]


def tinted(colour):
    return GREY * 0.6 + colour * 0.4


def test_masks_and_boxes_of_the_truth():
    (panel,) = draw(instances())
    first, second = instance_colours(np.array([0, 1]))
    assert np.abs(panel[35, 20] - tinted(first)).max() <= 1
    assert np.abs(panel[45, 60] - tinted(second)).max() <= 1
    assert (panel[55, 75] == GREY).all()
    assert np.abs(panel[50, 60] - second).max() <= 1  # lower edge of its box


def test_hidden_mask_is_not_painted_and_its_box_is_dashed():
    truth = instances()
    truth.gt_has_mask = torch.tensor([True, False])
    (panel,) = draw(truth)
    assert (panel[45, 60] == GREY).all()
    edge = {tuple(pixel) for pixel in panel[50, 32:68]}
    assert edge == {(0, 0, 0), (255, 255, 255)}


def test_amodal_masks_are_striped_where_gt_masks_end():
    truth = instances()
    amodal = truth.gt_masks.tensor.clone()
    amodal[1, 20:50, 4:30] = True
    truth.gt_amodal_masks = BitMasks(amodal)
    _, panel = draw(truth)
    _, second = instance_colours(np.array([0, 1]))
    hidden = panel[42:48, 6:28].reshape(-1, 3)
    striped = (np.abs(hidden - second).max(axis=1) <= 1).mean()
    assert 0.4 < striped < 0.6
    assert ((hidden == GREY).all(axis=1)).mean() == pytest.approx(1 - striped)
    assert np.abs(panel[45, 60] - tinted(second)).max() <= 1


def test_occluders_have_the_colour_of_the_covered():
    truth = instances()
    occluders = torch.zeros(2, 60, 80, dtype=torch.bool)
    occluders[0, 20:40, 30:40] = True
    truth.gt_occluders = BitMasks(occluders)
    _, panel = draw(truth)
    first, _ = instance_colours(np.array([0, 1]))
    assert np.abs(panel[30, 35] - tinted(first)).max() <= 1
    assert (panel[45, 60] == GREY).all()  # nothing covers the second one, so it is not drawn


@pytest.mark.parametrize("side", [40, 80, 320])
@pytest.mark.parametrize("boxes", [[], [[10, 10, 40, 40]]])
def test_all_fields_at_all_sizes(side, boxes):
    truth = fake_instances(60, 80, boxes)
    count = len(boxes)
    truth.gt_occluders = truth.gt_amodal_masks = truth.gt_masks
    truth.gt_has_mask = torch.zeros(count, dtype=torch.bool)
    truth.gt_ids = torch.arange(count)
    image = np.full((60, 80, 3), GREY, np.uint8)
    before = image.copy()
    sheet = draw_sample(image, truth, side=side)
    assert sheet.dtype == np.uint8
    assert sheet.shape == (CAPTION + side * 60 // 80 + 4, 3 * (side + 4), 3)
    assert (image == before).all()


def test_boxes_alone_and_polygons():
    truth = instances()
    polygons = [[np.array([10.0, 10, 40, 10, 40, 40, 10, 40])], [np.array([30.0, 20, 70, 20, 70, 50, 30, 50])]]
    expected = draw(truth)[0]
    truth.gt_masks = PolygonMasks(polygons)
    assert (draw(truth)[0] == expected).all()
    truth.remove("gt_masks")
    (panel,) = draw(truth)
    assert (panel[35, 20] == GREY).all()
    assert (panel[40, 20] != GREY).any()


def test_instances_of_another_image_are_refused():
    with pytest.raises(ValueError, match=r"instances of a \(60, 80\) image cannot be drawn over \(60, 81\)"):
        draw_sample(np.zeros((60, 81, 3), np.uint8), instances())


def test_sheets_hold_every_picture():
    pictures = [np.full((10, 30, 3), value, np.uint8) for value in range(7)]
    made = sheets(pictures, max_width=70, rows=2)
    assert [sheet.shape for sheet in made] == [(28, 68, 3), (28, 68, 3)]
    seen = {int(sheet[y, x, 0]) for sheet in made for y in (5, 19) if y < len(sheet) for x in (5, 39)}
    assert seen - {255} == set(range(7))
    assert len(sheets(pictures, max_width=5, rows=7)) == 1
    assert sheets([]) == []
