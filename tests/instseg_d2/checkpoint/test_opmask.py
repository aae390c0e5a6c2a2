"""The names of OPMask's authors find their places, each once."""

import re

import pytest
import torch
from detectron2.config import instantiate

from instseg_d2.checkpoint import CheckpointMismatchError
from instseg_d2.checkpoint.conversion import compare
from instseg_d2.checkpoint.opmask import convert_opmask
from instseg_d2.model_zoo import get_config


def test_every_tensor_finds_its_place():
    with torch.device("meta"):
        model = instantiate(get_config("TeacherStudent/opmask_narrow_fpn_occshapes_quick").model)
    state = {}
    for name, value in model.state_dict().items():
        old = name.replace("box_predictor", "box_head").replace("mask_head.deconv", "mask_head.mask_up1")
        state[re.sub(r"mask_fcn(\d)", r"mask_down\1", old)] = value
    assert {"roi_heads.box_head.cls_score.weight", "roi_heads.mask_head.mask_down6.norm.running_var"} <= set(state)
    settings = ["pixel_mean", "pixel_std", "proposal_generator.anchor_generator.cell_anchors.4"]
    converted = convert_opmask({**state, **{name: torch.zeros(1) for name in settings}})
    assert not compare(converted, model)


@pytest.mark.parametrize("name", ["roi_heads.box_head.fc1.weight", "roi_heads.mask_head.mask_up2.bias", "pixels"])
def test_other_models_are_refused(name):
    with pytest.raises(CheckpointMismatchError, match=name):
        convert_opmask({name: torch.zeros(1)})
