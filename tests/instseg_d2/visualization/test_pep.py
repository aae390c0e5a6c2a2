import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from instseg_d2.modeling.meta_arch.pep.model import Mining
from instseg_d2.visualization.overlay import instance_colours
from instseg_d2.visualization.pep import draw_mining

CAPTION, GAP = 22, 4


def mining(nodes=4):
    """Two originals and two mined instances; the first and the last are one object."""
    size = (60, 80)
    originals = Instances(
        size,
        locations=torch.tensor([[20.0, 20.0], [60.0, 40.0]]),
        windows=Boxes(torch.tensor([[0.0, 0, 40, 40], [40, 20, 80, 60]])),
    )
    key_maps = torch.zeros(2, 4, 4)
    key_maps[0, 3, 3] = 1  # around (35, 35)
    found = Instances(
        size,
        locations=torch.tensor([[20.0, 20.0], [60.0, 40.0], [35.0, 35.0], [22.0, 50.0]]),
        sources=torch.tensor([-1, -1, 0, 1]),
    )[:nodes]
    similarity = torch.eye(4)
    similarity[0, 3] = similarity[3, 0] = 0.9
    return Mining(
        originals, key_maps, found, similarity[:nodes, :nodes], torch.tensor([0, 1, 2, 0])[:nodes], found[:nodes]
    )


def nothing_found():
    return Instances(
        (60, 80),
        pred_boxes=Boxes(torch.zeros(0, 4)),
        scores=torch.zeros(0),
        pred_classes=torch.zeros(0).long(),
        pred_masks=torch.zeros(0, 60, 80, dtype=torch.bool),
    )


def panels(picture, count):
    width = picture.shape[1] // count
    return [picture[CAPTION:, i * width : i * width + width - GAP] for i in range(count)]


def has(panel, x, y, colour):
    return (np.abs(panel[y - 1 : y + 2, x - 1 : x + 2].astype(int) - colour).max(axis=2) <= 2).any()


def test_panels_show_originals_key_pixels_and_groups():
    image = np.full((60, 80, 3), 100, np.uint8)
    picture = draw_mining(image, mining(), nothing_found())
    assert (image == 100).all()
    first, second, third = instance_colours(np.arange(3))
    originals, keys, matrix, result = panels(picture, 4)
    assert has(originals, 20, 20, first)
    assert has(originals, 60, 40, second)
    assert not has(originals, 35, 35, third)
    assert has(keys, 35, 35, third)
    assert has(keys, 22, 50, first)  # merged with the first original: its colour
    cell = 60 // 5
    # Rows by group: first and last node, then the others; the strip of colours comes before them.
    assert [matrix[cell + 6 + cell * i, 6].tolist() for i in range(4)] == [
        colour.astype(int).tolist() for colour in (first, first, second, third)
    ]
    inside, outside = matrix[cell + 6, 2 * cell + 6], matrix[cell + 6, 3 * cell + 6]
    assert inside.astype(int).sum() > outside.astype(int).sum()
    assert (result[:60] == 100).all()


def test_heat_lies_where_the_window_is():
    image = np.full((60, 80, 3), 100, np.uint8)
    scene = mining(2)  # no mined instance is drawn over it
    _, keys, *_ = panels(draw_mining(image, scene, nothing_found()), 4)
    assert keys[34, 34].astype(int).sum() > keys[10, 10].astype(int).sum() + 100
    assert keys[10, 10].tolist() == [60, 60, 60]


@pytest.mark.parametrize("left_out", ["key_maps", "similarity"])
def test_models_without_a_part_have_a_panel_less(left_out):
    scene = mining(2)
    fields = {**vars(scene), left_out: None}
    picture = draw_mining(np.zeros((60, 80, 3), np.uint8), Mining(**fields), nothing_found(), enlarge=2)
    assert picture.shape[1] == 3 * (160 + GAP)


def test_empty_image():
    scene = mining(0)
    empty = Mining(
        scene.originals[:0], torch.zeros(0, 4, 4), scene.nodes, torch.zeros(0, 0), scene.groups, scene.merged
    )
    picture = draw_mining(np.zeros((60, 80, 3), np.uint8), empty, nothing_found())
    assert picture.shape[1] == 3 * (80 + GAP)
