import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from instseg_d2.visualization.film_strip import GAP, MARGIN, draw_film_strip
from instseg_d2.visualization.overlay import draw_instances, id_colour


def tracks(ids, size=(60, 80)):
    """A square for each id, side by side."""
    lefts = torch.arange(len(ids)) * 20.0
    found = Instances(size, pred_boxes=Boxes(torch.stack([lefts, lefts * 0 + 5, lefts + 15, lefts * 0 + 25], dim=1)))
    found.pred_masks = torch.zeros(len(ids), *size, dtype=torch.bool)
    for mask, left in zip(found.pred_masks, lefts.int().tolist(), strict=True):
        mask[5:25, left : left + 15] = True
    found.pred_ids, found.pred_classes = torch.tensor(ids, dtype=torch.int64), torch.zeros(len(ids), dtype=torch.int64)
    return found


def test_colors_of_ids_are_stable_and_differ():
    colors = np.array([id_colour(identity) for identity in range(1, 17)])
    assert np.array_equal(colors[4], id_colour(5))
    apart = np.abs(colors[:, None] - colors).sum(axis=2)
    assert apart[~np.eye(16, dtype=bool)].min() > 60
    assert len(set(id_colour(0))) == 1


def test_an_id_has_its_color_wherever_it_is_in_the_list():
    image = np.full((60, 80, 3), 50, np.uint8)
    first = draw_instances(image, tracks([3, 7]), labels=False)
    second = draw_instances(image, tracks([7, 3]), labels=False)
    assert np.array_equal(first[15, 5], second[15, 25])
    assert np.array_equal(first[15, 25], second[15, 5])
    assert not np.array_equal(first[15, 5], first[15, 25])
    assert not np.array_equal(draw_instances(image, tracks([3])), draw_instances(image, tracks([4])))


def test_rows_and_columns():
    frames = [np.full((60, 80, 3), shade, np.uint8) for shade in (0, 100, 200)]
    rows = {"baseline": [tracks([1]), tracks([]), tracks([2])], "frame level": [tracks([1])] * 3}
    strip = draw_film_strip(frames, rows, numbers=[0, 40, 80], height=30, labels=False)
    assert strip.shape[1] == MARGIN + 3 * (40 + GAP)
    top = len(strip) - 2 * (30 + GAP)
    for column, shade in enumerate((0, 100, 200)):
        left = MARGIN + column * (40 + GAP)
        assert (strip[top + 20 : top + 30, left : left + 40] == shade).all()
    second = top + 30 + GAP
    left = MARGIN + 40 + GAP
    assert (strip[top + 5, left + 3] == 100).all()
    assert not (strip[second + 5, left + 3] == 100).all()
    assert len(strip) - len(draw_film_strip(frames, {"one": rows["baseline"]}, height=30)) == 30 + GAP


def test_what_does_not_fit_together_is_refused():
    frame = np.zeros((60, 80, 3), np.uint8)
    with pytest.raises(ValueError, match="'a' has instances of 2 frames, and there are 1"):
        draw_film_strip([frame], {"a": [tracks([1])] * 2})
    with pytest.raises(ValueError, match=r"instances of a \(40, 80\) image"):
        draw_film_strip([frame], {"a": [tracks([1], (40, 80))]})
    with pytest.raises(ValueError, match="needs a row"):
        draw_film_strip([frame], {})
