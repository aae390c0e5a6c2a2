import cv2
import numpy as np
import pytest
import torch

from instseg_d2.inpainting.clips import as_images, away_from_hole, check_clip, dilate, from_bytes, to_bytes
from instseg_d2.inpainting.errors import InpaintingError


def test_bytes_survive_the_way_to_floats_and_back():
    every = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 1, 16, 16)
    floats = from_bytes(every)
    assert (floats.min(), floats.max()) == (-1, 1)
    assert torch.equal(to_bytes(floats), every)


def test_images_are_bgr():
    red = torch.tensor([1.0, -1.0, -1.0]).reshape(1, 3, 1, 1)
    assert as_images(red).tolist() == [[[[0, 0, 255]]]]


@pytest.mark.parametrize("radius", [0, 1, 3])
def test_dilate_is_opencvs(radius):
    mask = (np.random.default_rng(0).random((17, 23)) > 0.95).astype(np.uint8)
    expected = cv2.dilate(mask, np.ones((2 * radius + 1, 2 * radius + 1), np.uint8))
    found = dilate(torch.from_numpy(mask)[None, None, None].float(), radius)
    assert torch.equal(found[0, 0, 0], torch.from_numpy(expected).float())


def test_margin_is_taken_off_along_the_hole_alone():
    complete, visible = torch.zeros(2, 1, 5, 9)
    complete[:, 1:4, 1:8] = 1
    visible[:, 1:4, 1:5] = 1
    clear = away_from_hole(visible, complete, 2)
    assert clear[0, 1:4, 1:3].all()
    assert clear.sum() == 6


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("visible", (2, 3, 1, 8, 8), "resize it to the frames' size"),
        ("visible", (2, 2, 1, 8, 12), "one mask a frame"),
        ("visible", (2, 3, 8, 12), "order the axes"),
        ("visible", (1, 3, 1, 8, 12), "as many clips"),
        ("forward_flow", (2, 3, 2, 8, 12), "one flow between two neighbours"),
    ],
)
def test_parts_that_do_not_fit_are_named(name, shape, words):
    with pytest.raises(InpaintingError, match=rf"{name} must be .*8 x 12 px.*{words}"):
        check_clip(torch.zeros(2, 3, 3, 8, 12), **{name: torch.zeros(shape)})


def test_frames_themselves_are_checked():
    for shape in ((3, 3, 8, 8), (1, 0, 3, 8, 8), (1, 2, 1, 8, 8)):
        with pytest.raises(InpaintingError, match="frames must be"):
            check_clip(torch.zeros(shape))
    check_clip(torch.zeros(1, 1, 3, 8, 8), visible=torch.zeros(1, 1, 1, 8, 8), forward_flow=torch.zeros(1, 0, 2, 8, 8))
