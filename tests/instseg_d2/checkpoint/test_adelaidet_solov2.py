"""Names of AdelaiDet's model, written out from its code; its outputs were compared when the converter was made."""

import pytest
import torch
from detectron2.config import instantiate

from instseg_d2.checkpoint import CheckpointMismatchError
from instseg_d2.checkpoint.adelaidet_solov2 import convert_adelaidet_solov2
from instseg_d2.model_zoo import get_config


def adelaidet_names():
    """Name of each tensor of the heads beside the shape that it has there."""
    names = {}
    for tower, first in (("cate", 256), ("kernel", 258)):
        for index in range(4):
            names[f"ins_head.{tower}_tower.{3 * index}.weight"] = (512, 512 if index else first, 3, 3)
            for parameter in ("weight", "bias"):
                names[f"ins_head.{tower}_tower.{3 * index + 1}.{parameter}"] = (512,)
    for name, channels in (("cate_pred", 80), ("kernel_pred", 256)):
        names[f"ins_head.{name}.weight"] = (channels, 512, 3, 3)
        names[f"ins_head.{name}.bias"] = (channels,)
    for level in range(4):
        for index in range(max(level, 1)):
            before = 128 if index else 258 if level == 3 else 256
            names[f"mask_head.convs_all_levels.{level}.conv{index}.0.weight"] = (128, before, 3, 3)
            for parameter in ("weight", "bias"):
                names[f"mask_head.convs_all_levels.{level}.conv{index}.1.{parameter}"] = (128,)
    names["mask_head.conv_pred.0.weight"] = (256, 128, 1, 1)
    for parameter in ("weight", "bias"):
        names[f"mask_head.conv_pred.1.{parameter}"] = (256,)
    return names


def test_every_tensor_of_the_heads_finds_its_place():
    with torch.device("meta"):
        model = instantiate(get_config("PEP/solov2_r50_fpn_coco_3x").model)
    ours = {name: tuple(value.shape) for name, value in model.state_dict().items() if not name.startswith("backbone.")}
    state = {name: torch.empty(shape, device="meta") for name, shape in adelaidet_names().items()}
    state["backbone.fpn_output2.weight"] = torch.empty(0)
    converted = {name: tuple(value.shape) for name, value in convert_adelaidet_solov2(state).items()}
    assert converted.pop("backbone.fpn_output2.weight") == (0,)
    assert converted == ours


@pytest.mark.parametrize(
    "name",
    [
        "proposal_generator.rpn_head.conv.weight",
        "ins_head.cate_tower.2.weight",
        "ins_head.other_tower.0.weight",
        "ins_head.other_pred.weight",
        "mask_head.refine.weight",
    ],
)
def test_what_is_of_no_solov2_is_refused_by_name(name):
    with pytest.raises(CheckpointMismatchError, match=name.replace(".", r"\.")):
        convert_adelaidet_solov2({name: torch.zeros(1)})
