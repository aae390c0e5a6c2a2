"""The variants of CondInst, BoxInst and SIM: depth and weights, channels, deformable blocks, Swin, VOC."""

import pytest
import torch
from detectron2.config import instantiate
from detectron2.modeling.backbone.resnet import DeformBottleneckBlock

from instseg_d2 import model_zoo
from instseg_d2.data.datasets.voc import VOC_CLASSES

NAMES = [
    name
    for method in ("condinst", "boxinst", "sim")
    for name in model_zoo.list_configs(f"SIM/{method}_*")
    if "_narrow_" not in name and "_mask2former_" not in name
]


def test_every_method_has_every_backbone_and_schedule():
    variants = ["r50_fpn_coco_1x", "r50_fpn_coco_3x", "r101_fpn_coco_1x", "r101_fpn_coco_3x", "r50_fpn_voc"]
    variants += ["r50_bifpn_coco_1x", "r50_bifpn_coco_3x", "r101_bifpn_coco_3x"]
    boxes = ["r101_dcn_bifpn_coco_3x", "swin_b_fpn_coco_3x", "r101_fpn_voc"]
    assert {f"SIM/condinst_{variant}" for variant in variants} <= set(NAMES)
    assert {f"SIM/{method}_{variant}" for method in ("boxinst", "sim") for variant in variants + boxes} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_names_say_what_is_in_them(recipe, name):
    cfg = recipe(name)
    backbone, head = cfg.model.detector.backbone, cfg.model.detector.head
    assert ("_bifpn_" in name) == (backbone.out_channels == 160)
    assert list(head.conv_dims) == [backbone.out_channels] * 4
    assert cfg.model.mask_branch.in_channels == head.extra.in_channels == backbone.out_channels
    # BoxInst's and SIM's loader removes masks, CondInst's does not.
    assert ("supervision" in cfg.dataloader.train.dataset) == ("/condinst_" not in name)
    assert (cfg.model.semantic_head is not None) == name.endswith("_sem")
    schedule = {"1x": 90000, "3x": 270000, "voc": 20000}[name.removesuffix("_sem").rpartition("_")[2]]
    assert cfg.train.max_iter == schedule
    is_voc = name.endswith("_voc")
    assert cfg.model.detector.num_classes == (len(VOC_CLASSES) if is_voc else 80)
    assert cfg.dataloader.train.dataset.names == ("voc_2012_inst_trainaug" if is_voc else "coco_2017_train")
    assert cfg.dataloader.evaluator.dataset_name == ("voc_2012_inst_val" if is_voc else "coco_2017_val")
    if "_swin_" not in name:
        depth = 101 if "_r101_" in name else 50
        assert cfg.train.init_checkpoint == f"detectron2://ImageNetPretrained/MSRA/R-{depth}.pkl"
        assert backbone.bottom_up.stages.depth == depth


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("boxinst_r101_dcn_bifpn_coco_3x", 11),
        ("boxinst_released_r101_dcn_bifpn_coco_3x", 30),
        ("sim_r101_dcn_bifpn_coco_3x", 11),
        ("boxinst_r101_bifpn_coco_3x", 0),
    ],
)
def test_deformable_blocks(recipe, name, count):
    with torch.device("meta"):
        stages = instantiate(recipe(f"SIM/{name}").model.detector.backbone.bottom_up.stages)
    found = [block for stage in stages for block in stage if isinstance(block, DeformBottleneckBlock)]
    assert len(found) == count
    assert all(block.deform_modulated for block in found)


@pytest.mark.parametrize("method", ["boxinst", "sim"])
def test_swin_is_fed_rgb_and_colors_are_taken_so(recipe, method):
    cfg = recipe(f"SIM/{method}_swin_b_fpn_coco_3x")
    assert cfg.model.supervision.input_format == cfg.dataloader.train.mapper.image_format == "RGB"
    assert list(cfg.model.detector.pixel_mean) == [123.675, 116.280, 103.530]
    assert list(cfg.model.detector.backbone.in_features) == ["p1", "p2", "p3"]
    # Of the stage that nothing takes there is no norm, which would be without a gradient.
    assert list(cfg.model.detector.backbone.bottom_up.out_indices) == [1, 2, 3]
    assert cfg.optimizer.lr == cfg.train.recipe.lr == 1e-4


@pytest.mark.slow
def test_swin_gives_p3_to_p7_and_every_parameter_learns(recipe):
    config = recipe("SIM/boxinst_swin_b_fpn_coco_3x").model.detector.backbone
    config.bottom_up.update(embed_dim=32, depths=[1, 1, 1, 1], num_heads=[1, 2, 4, 8], drop_path_rate=0.0)
    torch.manual_seed(0)
    found = instantiate(config).train()
    levels = found(torch.randn(1, 3, 128, 128))
    assert {key: tuple(x.shape) for key, x in levels.items()} == {
        f"p{level}": (1, 256, 128 >> level, 128 >> level) for level in range(3, 8)
    }
    sum(x.square().mean() for x in levels.values()).backward()
    assert not [name for name, p in found.named_parameters() if p.grad is None]
