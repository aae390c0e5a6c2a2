import numpy as np
import torch
from detectron2.structures import Boxes, Instances

from instseg_d2.visualization.film_strip import GAP, MARGIN
from instseg_d2.visualization.tracks import draw_tracks

SIDE = 40


def found(ids, attention=0):
    result = Instances((60, 80), pred_boxes=Boxes(torch.tensor([[10.0, 10, 40, 40]]).repeat(len(ids), 1)))
    result.pred_masks = torch.zeros(len(ids), 60, 80, dtype=torch.bool)
    result.pred_masks[:, 10:40, 10:25] = True
    result.pred_ids, result.pred_classes = (
        torch.tensor(ids, dtype=torch.int64),
        torch.zeros(len(ids), dtype=torch.int64),
    )
    if attention:
        result.pred_attention = torch.zeros(len(ids), attention, 14, 14)
        result.pred_attention[:, 0] = 1
    return result


def cell(picture, line, column):
    """A picture of the last `line`, counted from below."""
    top = len(picture) - (line + 1) * (SIDE + GAP)
    left = MARGIN + column * (SIDE + GAP)
    return picture[top : top + SIDE, left : left + SIDE]


def test_an_object_has_a_row_and_blanks_where_it_is_away():
    frames = [np.full((60, 80, 3), 90, np.uint8)] * 3
    drawn = draw_tracks(frames, [found([4]), found([]), found([4])], side=SIDE)
    assert drawn.shape[1] == MARGIN + 3 * (SIDE + GAP)
    assert (cell(drawn, 0, 1) == 225).all()
    assert np.array_equal(cell(drawn, 0, 0), cell(drawn, 0, 2))
    # The mask is the left half of the box.
    assert not (cell(drawn, 0, 0)[20, 12] == 90).all()
    assert (cell(drawn, 0, 0)[20, 30] == 90).all()


def test_those_seen_longest_come_first_and_the_rest_is_counted():
    frames = [np.full((60, 80, 3), 90, np.uint8)] * 3
    sights = [found([1, 2]), found([2, 0]), found([2, 3])]
    one, all_of_them = (draw_tracks(frames, sights, ["disc"], rows=rows, side=SIDE) for rows in (1, 3))
    # Two more tracks, and no line that tells of them.
    assert 2 * SIDE < len(all_of_them) - len(one) < 3 * SIDE
    # The last one is 3, in the third frame only.
    assert (cell(all_of_them, 0, 0) == 225).all()
    assert not (cell(all_of_them, 0, 2) == 225).all()
    nothing = draw_tracks(frames, [found([0])] * 3, side=SIDE)
    assert len(nothing) < 2 * SIDE


def test_attention_to_object_and_background():
    frames = [np.full((60, 80, 3), 90, np.uint8)] * 2
    plain = draw_tracks(frames, [found([1])] * 2, side=SIDE)
    single = draw_tracks(frames, [found([1], attention=2)] * 2, side=SIDE)
    # One map of each: two heat maps.
    assert len(single) == len(plain) + 2 * (SIDE + GAP)
    inside = cell(single, 1, 0)[20, 20], cell(single, 0, 0)[20, 20]
    assert not np.array_equal(*inside)
    many = draw_tracks(frames, [found([1], attention=5)] * 2, foreground=3, prototypes=2, side=SIDE)
    # Of each the regions and two prototypes.
    assert len(many) == len(plain) + 6 * (SIDE + GAP)
    # The object's first prototype has all of the box, the second one nothing.
    regions, first, second = (cell(many, line, 0) for line in (5, 4, 3))
    assert np.array_equal(first[15, 15], first[25, 25])
    assert not np.array_equal(first[20, 20], second[20, 20])
    assert (regions[20, 20] != regions[2, 2]).any()
    only_object = draw_tracks(frames, [found([1], attention=3)] * 2, foreground=3, side=SIDE)
    assert len(only_object) == len(plain) + 2 * (SIDE + GAP)
