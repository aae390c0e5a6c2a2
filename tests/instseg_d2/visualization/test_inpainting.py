import numpy as np
import pytest
import torch

from instseg_d2.data.synthetic.film_strip import flow_picture
from instseg_d2.inpainting.samples import Completion
from instseg_d2.visualization.inpainting import ORIGINS, draw_flow, draw_origins, inpainting_strip


def completed(length=3):
    """A completed clip whose hole has a row for each origin of colours."""
    parts = {
        name: torch.zeros(1, length, 1, 40, 60)
        for name in ("visible", "complete", "from_past", "from_future", "painted", "left")
    }
    parts["complete"][..., 10:30, 10:50] = 1
    parts["visible"][..., 10:30, 10:30] = 1
    parts["from_past"][..., 10:16, 31:50] = 1
    parts["from_future"][..., 13:19, 31:50] = 1
    parts["painted"][..., 20:24, 31:50] = 1
    parts["left"][..., 25:29, 31:50] = 1
    return Completion(frames=torch.zeros(1, length, 3, 40, 60), **parts)


def test_every_origin_has_its_colour():
    picture = draw_origins(completed(), 1)
    rows = {"from past": 11, "from both": 14, "from future": 17, "made up": 22, "unknown": 27}
    for name, row in rows.items():
        assert tuple(picture[row, 40]) == ORIGINS[name]
    assert tuple(picture[10, 20]) == (255, 255, 255)  # outline of the visible part
    assert len({*picture[20, 20]}) == 1  # grey inside


def test_flow_is_painted_with_the_outline():
    flow = torch.zeros(2, 40, 60)
    flow[0] = 3
    picture = draw_flow(flow, completed().complete[0, 0], fastest=6)
    assert tuple(picture[10, 20]) == (0, 0, 0)
    expected = flow_picture(np.full((1, 1, 2), (3, 0), np.float32), 6)
    # Half of the fastest rounds either way.
    assert np.abs(picture[0, 0].astype(int) - expected[0, 0]).max() <= 1


@pytest.mark.parametrize("length", [1, 2, 12])
def test_strip_has_a_row_for_each_view(length):
    done = completed(length)
    flows = [torch.randn(1, length - 1, 2, 40, 60) for _ in range(2)]
    plain = inpainting_strip(done.frames, done, columns=4, height=50)
    with_flow = inpainting_strip(done.frames, done, flows=flows, columns=4, height=50)
    columns = min(length - 1 or 1, 4)
    row = 50 + 4  # a picture and the gap below it
    assert plain.dtype == np.uint8
    assert plain.shape[0] > 3 * row
    if length > 1:
        assert with_flow.shape[0] - plain.shape[0] > 2 * row
    # The surroundings of the object are (40, 60) less some at both sides.
    assert with_flow.shape[1] % columns == 0


def test_strip_of_an_object_that_is_nowhere():
    done = completed()
    nothing = Completion(**{name: torch.zeros_like(part) for name, part in vars(done).items()})
    flow = torch.zeros(1, 2, 2, 40, 60)
    assert inpainting_strip(done.frames, nothing, flows=[flow, flow], height=40).shape[0] > 5 * 44
