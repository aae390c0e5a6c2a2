"""Every recipe loads, builds, and prints as YAML; the learning rate fits the batch it is meant for."""

import pytest
import torch
from detectron2.config import instantiate
from fvcore.common.param_scheduler import ParamScheduler
from omegaconf import OmegaConf

from instseg_d2 import model_zoo
from instseg_d2.engine.recipe import report_recipe

NAMES = model_zoo.list_configs()


@pytest.mark.parametrize("name", NAMES)
def test_recipe_is_complete(name):
    cfg = model_zoo.get_config(name)
    assert set(cfg) == set(model_zoo.RECIPE_KEYS)
    assert name.rpartition("/")[2] in cfg.train.output_dir
    assert OmegaConf.to_yaml(cfg)
    assert report_recipe(cfg) is None
    assert isinstance(instantiate(cfg.lr_multiplier), ParamScheduler)


@pytest.mark.parametrize("name", NAMES)
def test_model_and_optimizer_build(name):
    cfg = model_zoo.get_config(name)
    with torch.device("meta"):
        model = instantiate(cfg.model)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    counted = sum(p.numel() for group in optimizer.param_groups for p in group["params"])
    assert counted == sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", NAMES)
def test_mappers_and_augmentations_build(name):
    cfg = model_zoo.get_config(name)
    assert instantiate(cfg.dataloader.train.mapper) is not None
    assert instantiate(cfg.dataloader.test.mapper) is not None
