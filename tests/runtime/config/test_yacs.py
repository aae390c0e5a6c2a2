"""yaml configs: defaults, merging, versions, and `@configurable`."""

import pytest
from detectron2.config import (
    CfgNode,
    configurable,
    downgrade_config,
    get_cfg,
    global_cfg,
    set_global_cfg,
    upgrade_config,
)
from omegaconf import OmegaConf


def merge(tmp_path, text, cfg=None):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    cfg = cfg or get_cfg()
    cfg.merge_from_file(str(path))
    return cfg


def test_defaults_are_fresh_copies():
    one = get_cfg()
    one.MODEL.ANCHOR_GENERATOR.SIZES[0].append(1)
    one.SOLVER.BASE_LR = 7.0
    other = get_cfg()
    assert other.MODEL.ANCHOR_GENERATOR.SIZES == [[32, 64, 128, 256, 512]]
    assert other.SOLVER.BASE_LR == 0.001
    assert other.MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS[2] == (30.0, 30.0, 15.0, 15.0)
    assert other.VERSION == 2


def test_base_files_are_merged_first(tmp_path):
    (tmp_path / "base.yaml").write_text("VERSION: 2\nSOLVER: {BASE_LR: 0.5, MAX_ITER: 7}\n")
    cfg = merge(tmp_path, "_BASE_: base.yaml\nSOLVER: {MAX_ITER: 9}\n")
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER) == (0.5, 9)


def test_a_dump_loads_again(tmp_path):
    cfg = get_cfg()
    cfg.SOLVER.STEPS = (1, 2)
    again = merge(tmp_path, cfg.dump())
    assert again.SOLVER == cfg.SOLVER
    assert again.MODEL.ROI_HEADS == cfg.MODEL.ROI_HEADS
    # Nested tuples come back as lists once, and stay so.
    assert merge(tmp_path, again.dump()) == again


def test_lists_override_and_unknown_keys_are_refused(tmp_path):
    cfg = get_cfg()
    cfg.merge_from_list(["SOLVER.BASE_LR", "0.25", "DATASETS.TRAIN", "('a', 'b')"])
    assert cfg.SOLVER.BASE_LR == 0.25
    assert cfg.DATASETS.TRAIN == ("a", "b")
    with pytest.raises(KeyError):
        merge(tmp_path, "VERSION: 2\nSOLVER: {BASE_LRR: 1}\n")
    with pytest.raises(AssertionError):
        cfg.merge_from_file(str(tmp_path / "absent.yaml"))


def test_computed_keys_are_set_once():
    cfg = get_cfg()
    cfg.COMPUTED_SIZE = 3
    cfg.COMPUTED_SIZE = 3
    with pytest.raises(KeyError):
        cfg.COMPUTED_SIZE = 4


@pytest.mark.parametrize("version", [0, 1])
def test_versions_there_and_back(version):
    cfg = get_cfg()
    cfg.MY_KEY = CfgNode({"X": 1})
    old = downgrade_config(cfg, to_version=version)
    assert old.VERSION == version
    assert old.MODEL.WEIGHT == ""
    assert "WEIGHTS" not in old.MODEL
    assert old.MODEL.RETINANET.ANCHOR_SIZES == old.MODEL.RPN.ANCHOR_SIZES == [[32, 64, 128, 256, 512]]
    assert upgrade_config(old) == cfg
    assert cfg.VERSION == 2
    with pytest.raises(AssertionError):
        upgrade_config(cfg, to_version=1)
    with pytest.raises(AssertionError):
        downgrade_config(old, to_version=2)


def test_an_old_file_is_recognised_and_converted(tmp_path):
    cfg = merge(tmp_path, "MODEL:\n  WEIGHT: w\n  RPN: {ANCHOR_SIZES: [[8]]}\n  ROI_HEADS: {NMS: 0.3}\n")
    assert cfg.MODEL.WEIGHTS == "w"
    assert cfg.MODEL.ANCHOR_GENERATOR.SIZES == [[8]]
    assert cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST == 0.3
    assert cfg.VERSION == 2
    assert "WEIGHT" not in cfg.MODEL


def test_an_old_retinanet_keeps_its_own_anchors(tmp_path):
    cfg = merge(tmp_path, "MODEL:\n  WEIGHT: w\n  META_ARCHITECTURE: RetinaNet\n  RETINANET: {ANCHOR_SIZES: [[9]]}\n")
    assert cfg.MODEL.ANCHOR_GENERATOR.SIZES == [[9]]
    assert "ANCHOR_SIZES" not in cfg.MODEL.RPN


def test_a_newer_file_is_refused(tmp_path):
    with pytest.raises(AssertionError):
        merge(tmp_path, "VERSION: 3\n")


def test_global_cfg():
    cfg = get_cfg()
    cfg.GLOBAL.HACK = 4.0
    set_global_cfg(cfg)
    try:
        assert global_cfg.GLOBAL.HACK == 4.0
    finally:
        global_cfg.clear()


class Plain:
    @configurable
    def __init__(self, a, b=2, c=3):
        self.values = (a, b, c)

    @classmethod
    def from_config(cls, cfg, scale=1):
        return {"a": cfg.A * scale, "b": 20}


class Child(Plain):
    def __init__(self, cfg, **kwargs):
        super().__init__(cfg, **kwargs)


class Other(Plain):
    @classmethod
    def from_config(cls, cfg, *args, **kwargs):
        return {**super().from_config(cfg), "c": sum(args), **kwargs}


@configurable(from_config=lambda cfg, scale=1: {"a": cfg.A * scale})
def function(a, b=2):
    return a, b


@pytest.mark.parametrize("make", [CfgNode, OmegaConf.create])
def test_configurable(make):
    cfg = make({"A": 1})
    assert Plain(5, c=6).values == (5, 2, 6)
    assert Plain(cfg).values == (1, 20, 3)
    assert Plain(cfg=cfg, c=9).values == (1, 20, 9)
    assert Plain(cfg, scale=4, b=0).values == (4, 0, 3)
    assert Child(cfg, c=8).values == (1, 20, 8)
    assert Other(cfg, 3, 4, b=7).values == (1, 7, 7)
    assert function(cfg, scale=3) == (3, 2)
    assert function(cfg, b=5) == (1, 5)
    assert function(7) == (7, 2)
    assert function.from_config(cfg) == {"a": 1}


def test_configurable_misuse():
    class NoFromConfig:
        @configurable
        def __init__(self, a=1):
            self.a = a

    with pytest.raises(AttributeError, match="from_config"):
        NoFromConfig(a=1)

    class NotAClassmethod(NoFromConfig):
        def from_config(self, cfg):
            return {}

    with pytest.raises(TypeError, match="classmethod"):
        NotAClassmethod(a=1)

    class WrongFirstArgument(NoFromConfig):
        @classmethod
        def from_config(cls, config):
            return {}

    with pytest.raises(TypeError, match="'cfg'"):
        WrongFirstArgument(CfgNode({"A": 1}))

    with pytest.raises(AssertionError):

        @configurable
        def not_init(a):
            return a
