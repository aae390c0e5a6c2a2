import pytest
from detectron2.config import LazyCall as L
from omegaconf import OmegaConf
from torch import nn

from instseg_d2.engine.overrides import UnknownKeyError, apply_overrides, config_keys


@pytest.fixture
def cfg():
    return OmegaConf.create(
        {
            "train": {"max_iter": 100, "output_dir": "out", "none": None},
            "model": L(nn.Identity)(sizes=[[1], [2]], width="${train.max_iter}"),
            "link": "${train}",
        },
        flags={"allow_objects": True},
    )


def test_keys_cover_inner_nodes_leaves_and_list_items(cfg):
    keys = set(config_keys(cfg))
    assert {"train", "train.max_iter", "train.none", "model.sizes", "model.sizes.1", "model.sizes.1.0", "link"} <= keys
    assert not any(key.startswith("link.") for key in keys)


def test_known_keys_change(cfg):
    apply_overrides(cfg, ["train.max_iter=7", "model.sizes=[[4]]", "train.none=text"])
    assert cfg.train.max_iter == 7
    assert cfg.model.width == 7
    assert cfg.model.sizes == [[4]]
    assert cfg.train.none == "text"


def test_mistyped_key_is_refused_with_the_nearest(cfg):
    with pytest.raises(UnknownKeyError, match=r"no key 'train.max_itr' \(nearest: train.max_iter"):
        apply_overrides(cfg, ["train.max_itr=5"])
    assert cfg.train.max_iter == 100
    assert "max_itr" not in cfg.train


def test_wrong_parent_suggests_the_same_last_part(cfg):
    with pytest.raises(UnknownKeyError, match=r"train.output_dir"):
        apply_overrides(cfg, ["output_dir=x"])


def test_one_bad_override_applies_none(cfg):
    with pytest.raises(UnknownKeyError):
        apply_overrides(cfg, ["train.max_iter=7", "nothing.like.this=1"])
    assert cfg.train.max_iter == 100


def test_plus_adds_and_tilde_deletes(cfg):
    apply_overrides(cfg, ["+model.eps=0.5", "~train.none"])
    assert cfg.model.eps == 0.5
    assert "none" not in cfg.train


def test_plus_on_a_known_key_is_refused(cfg):
    with pytest.raises(UnknownKeyError, match="exists already"):
        apply_overrides(cfg, ["+train.max_iter=5"])


def test_no_equals_sign(cfg):
    with pytest.raises(ValueError, match="key=value"):
        apply_overrides(cfg, ["train.max_iter"])
