import torch
from detectron2.structures import BitMasks

from instseg_d2.layers.mask_boxes import tight_boxes


def test_edges_lie_behind_the_last_pixel():
    masks = torch.zeros(3, 6, 9, dtype=torch.bool)
    masks[0, 2, 3] = True
    masks[1, 0, 0] = masks[1, 5, 8] = True
    assert tight_boxes(masks).tolist() == [[3, 2, 4, 3], [0, 0, 9, 6], [0, 0, 0, 0]]


def test_equals_detectron2():
    masks = torch.rand(30, 12, 15, generator=torch.Generator().manual_seed(0)) < 0.02
    assert torch.equal(tight_boxes(masks), BitMasks(masks).get_bounding_boxes().tensor)


def test_no_masks_and_no_pixels():
    assert tight_boxes(torch.zeros(0, 4, 4, dtype=torch.bool)).shape == (0, 4)
    assert tight_boxes(torch.zeros(2, 0, 4, dtype=torch.bool)).tolist() == [[0, 0, 0, 0]] * 2
