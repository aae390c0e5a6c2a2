"""Pictures of gates and of STAM's weights."""

import numpy as np
import pytest
import torch

from instseg_d2.inpainting.stages.mapper import ClipMapper
from instseg_d2.visualization.inpainting_attention import draw_attention

_COLUMN = 220 + 4


@pytest.fixture
def item(hidden_clips):
    return ClipMapper()(hidden_clips(1, length=4)[0])


def test_gates_and_weights_beside_the_frame(make_stage, item):
    stage = make_stage("content")
    stage.train()
    before = {name: value.clone() for name, value in stage.state_dict().items()}
    picture = draw_attention(stage, item, frames=4)
    # The frame, three gates, and STAM of two clips.
    assert picture.shape[1] == 6 * _COLUMN + 4
    assert picture.dtype == np.uint8
    assert picture.shape[0] == 2 * draw_attention(stage, item, frames=2).shape[0]
    assert stage.training
    assert not any(getattr(module, "keep_aux", False) for module in stage.modules())
    assert all(torch.equal(value, before[name]) for name, value in stage.state_dict().items())


def test_an_open_gate_is_bright_and_a_closed_one_dark(make_stage, item):
    stage = make_stage("content")
    first = stage.networks["content"].to_half[0]
    shades = []
    for bias in (-20.0, 20.0):
        with torch.no_grad():
            first.gate.bias.fill_(bias)
        panel = draw_attention(stage, item, frames=1)[40:100, _COLUMN + 20 : _COLUMN + 200]
        shades.append(panel.reshape(-1, 3).mean(axis=0))
    # Viridis runs from violet to yellow.
    assert shades[0][0] > shades[0][1]
    assert shades[1][1] > 200 > shades[1][0]


def test_without_gates_and_discriminator_there_is_nothing_to_draw(make_stage, item):
    stage = make_stage("content")
    stage.critics.by_class = None
    assert draw_attention(stage, item, frames=1).shape[1] == 4 * _COLUMN + 4
    for module in stage.networks["content"].modules():
        if hasattr(module, "mask_branch"):
            module.gate = module.mask_branch = None
    assert draw_attention(stage, item) is None
