"""The zoo's names, links and configs; every one loads, and a few build."""

from pathlib import Path

import pytest
import torch
from detectron2 import model_zoo
from detectron2.config import CfgNode, get_cfg, instantiate
from detectron2.modeling import build_model

FOLDER = Path(model_zoo.get_config_file("Base-RCNN-FPN.yaml")).parent
COVERED = ("COCO-Detection/faster", "COCO-Detection/retinanet", "COCO-Detection/fcos", "COCO-InstanceSegmentation")
NAMES = sorted(str(p.relative_to(FOLDER)) for p in FOLDER.glob("COCO-*/*.*") if "regnet" not in p.name)
NAMES = [name for name in NAMES if name.startswith(COVERED)]


@pytest.mark.parametrize("name", NAMES)
def test_every_config_loads(name):
    cfg = model_zoo.get_config(name)
    if name.endswith(".py"):
        assert {"model", "dataloader", "optimizer", "lr_multiplier", "train"} <= set(cfg)
        assert cfg.train.init_checkpoint.endswith("R-50.pkl")
        assert cfg.dataloader.train.mapper.use_instance_mask == ("mask" in name)
    else:
        assert isinstance(cfg, CfgNode)
        assert cfg.MODEL.MASK_ON == ("mask" in name)
        assert cfg.MODEL.RESNETS.DEPTH == (101 if "_101_" in name else 50)
        assert cfg.SOLVER.MAX_ITER == (270000 if "3x" in name else 90000)
        assert len(cfg.MODEL.ANCHOR_GENERATOR.SIZES) == (5 if "FPN" in name else 1)


def test_links():
    stem = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x"
    link = f"https://dl.fbaipublicfiles.com/detectron2/{stem}/137849600/model_final_f10217.pkl"
    assert model_zoo.get_checkpoint_url(stem + ".yaml") == link
    assert model_zoo.get_checkpoint_url(stem + ".py") == link
    assert model_zoo.get_config(stem + ".yaml", trained=True).MODEL.WEIGHTS == link
    lazy = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py"
    assert model_zoo.get_config(lazy, trained=True).train.init_checkpoint == model_zoo.get_checkpoint_url(lazy)


@pytest.mark.bundled_only
def test_every_link_belongs_to_a_config():
    from detectron2.model_zoo.model_zoo import _RELEASED

    for folder, released in _RELEASED.items():
        for name in released:
            assert any((FOLDER / folder / f"{name}{suffix}").exists() for suffix in (".yaml", ".py")), name


def test_unknown_names():
    for call in (model_zoo.get_config_file, model_zoo.get_config, model_zoo.get, model_zoo.get_checkpoint_url):
        with pytest.raises(RuntimeError, match="COCO-Detection/absent"):
            call("COCO-Detection/absent.yaml")
    with pytest.raises(RuntimeError, match="coco_schedule"):
        model_zoo.get_config("common/coco_schedule.py", trained=True)


def test_schedules():
    cfg = model_zoo.get_config("common/coco_schedule.py")
    one, three = instantiate(cfg.lr_multiplier_1x), instantiate(cfg.lr_multiplier_3x)
    assert one(0.0) == pytest.approx(0.001)
    assert [round(one(x), 6) for x in (0.5, 0.7, 0.95)] == [1.0, 0.1, 0.01]
    assert [round(three(x / 270000), 6) for x in (209000, 211000, 251000)] == [1.0, 0.1, 0.01]
    # Half of the 1000 warm-up iterations.
    assert three(500 / 270000) == pytest.approx(0.5005)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mask_rcnn_fpn", "mask_rcnn_c4", "cascade_rcnn", "retinanet", "fcos"])
def test_common_models_build_in_the_order_of_their_yaml(name):
    lazy = model_zoo.get_config(f"common/models/{name}.py").model
    yaml_name = {
        "mask_rcnn_fpn": "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml",
        "mask_rcnn_c4": "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.yaml",
        "cascade_rcnn": "Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml",
        "retinanet": "COCO-Detection/retinanet_R_50_FPN_1x.yaml",
    }.get(name)
    torch.manual_seed(0)
    model = instantiate(lazy)
    assert model.pixel_mean.flatten().tolist() == pytest.approx([103.53, 116.28, 123.675])
    if yaml_name is None:
        return
    cfg = get_cfg()
    cfg.merge_from_file(model_zoo.get_config_file(yaml_name))
    cfg.MODEL.DEVICE = "cpu"
    other = build_model(cfg)
    mine = {k: v.shape for k, v in model.state_dict().items()}
    assert mine == {k: v.shape for k, v in other.state_dict().items()}
