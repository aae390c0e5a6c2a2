import pytest
import torch
from detectron2.config import instantiate
from torch import nn

from instseg_d2.engine.param_groups import SlowerPart
from instseg_d2.model_zoo import get_config


def test_the_part_and_what_is_below_it():
    factor = SlowerPart(part="backbone", factor=0.1)
    assert [factor(name) for name in ("backbone.res2.weight", "backbone.bias")] == [0.1, 0.1]
    assert [factor(name) for name in ("backbones.weight", "head.backbone.weight")] == [1.0, 1.0]


@pytest.mark.parametrize("recipe", ["SIM/mask2former_r50_coco_50e", "SIM/mask2former_box_r101_coco_50e"])
def test_groups_of_mask2former(recipe):
    """Adam's rate, a tenth of it for the backbone; no decay of norms and of what is learned in place of an input."""
    cfg = get_config(recipe)
    with torch.device("meta"):
        model = instantiate(cfg.model)
    cfg.optimizer.params.model = model
    groups = instantiate(cfg.optimizer).param_groups
    settings = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    norms = {id(p) for m in model.modules() if isinstance(m, nn.LayerNorm | nn.GroupNorm) for p in m.parameters()}
    embeddings = ("query_features", "query_positions", "level_embedding")
    for name, parameter in model.named_parameters():
        rate = 1e-5 if name.startswith("backbone.") else 1e-4
        decay = 0.0 if id(parameter) in norms or name.endswith(embeddings) else 0.05
        assert settings[id(parameter)] == (pytest.approx(rate), decay), name
    assert sum(name.endswith(embeddings) for name, _ in model.named_parameters()) == 4
