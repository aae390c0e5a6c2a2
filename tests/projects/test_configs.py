"""Every recipe loads, builds, and prints as YAML; the learning rate fits the batch it is meant for."""

import pytest
import torch
from detectron2.config import instantiate
from fvcore.common.param_scheduler import ParamScheduler
from omegaconf import OmegaConf

from instseg_d2 import model_zoo
from instseg_d2.engine.recipe import report_recipe

NAMES = model_zoo.list_configs()
# Clips of one object have neither boxes nor classes to map.
DETECTORS = [name for name in NAMES if not name.startswith("VOIN/")]


@pytest.mark.parametrize("name", NAMES)
def test_recipe_is_complete(recipe, name):
    cfg = recipe(name)
    assert set(cfg) == set(model_zoo.RECIPE_KEYS)
    assert name.rpartition("/")[2] in cfg.train.output_dir
    assert OmegaConf.to_yaml(cfg)
    assert report_recipe(cfg) is None
    assert isinstance(instantiate(cfg.lr_multiplier), ParamScheduler)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if "_swin_b_" in name else ()) for name in NAMES]
)
def test_model_and_optimizer_build(recipe, name):
    cfg = recipe(name)
    # upstream's Swin reads numbers from tensors while it is built, which meta tensors do not have
    with torch.device("cpu" if "_swin_" in name else "meta"):
        model = instantiate(cfg.model)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    counted = sum(p.numel() for group in optimizer.param_groups for p in group["params"])
    assert counted == sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", NAMES)
def test_mappers_and_augmentations_build(recipe, name):
    cfg = recipe(name)
    if "sources" in cfg.dataloader.train.mapper:  # a whole data set, which need not be there
        cfg.dataloader.train.mapper.sources = [{"annotations": [{"segmentation": [[0, 0, 2, 0, 2, 2]]}]}]
    assert instantiate(cfg.dataloader.train.mapper) is not None
    assert instantiate(cfg.dataloader.test.mapper) is not None


@pytest.mark.parametrize("name", DETECTORS)
def test_mappers_know_the_classes_and_channels_of_the_model(recipe, name):
    cfg = recipe(name)
    node = cfg.model
    heads = next(node[key] for key in ("roi_heads", "detector") if key in node) if "num_classes" not in node else node
    assert cfg.dataloader.train.mapper.num_classes == heads.num_classes
    assert cfg.dataloader.train.mapper.image_format == node.get("input_format", "BGR")
    assert cfg.dataloader.test.mapper.image_format == node.get("input_format", "BGR")


@pytest.mark.parametrize("name", model_zoo.list_configs("Baselines/*_r[0-9]*_coco_*"))
def test_resnets_start_from_the_weights_of_their_depth(recipe, name):
    cfg = recipe(name)
    depth = 101 if "_r101_" in name else 50
    assert cfg.train.init_checkpoint == f"detectron2://ImageNetPretrained/MSRA/R-{depth}.pkl"
    backbone = cfg.model.detector.backbone if "detector" in cfg.model else cfg.model.backbone
    assert backbone.bottom_up.stages.depth == depth
