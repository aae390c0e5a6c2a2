"""The grammar of `LazyConfig.apply_overrides`."""

import math

import pytest
from detectron2.config import LazyConfig
from omegaconf import DictConfig


def make():
    content = {"a": {"b": 1, "c": "x"}, "items": [{"n": 1}, {"n": 2}], "train": {"device": "cuda"}}
    return DictConfig(content, flags={"allow_objects": True})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("-5", -5),
        ("0.5", 0.5),
        ("1e-3", 1e-3),
        ("true", True),
        ("False", False),
        ("abc", "abc"),
        ("'123'", "123"),
        ('"a b"', "a b"),
        ("[1,2.5,'x']", [1, 2.5, "x"]),
        ("[[1,2],[3]]", [[1, 2], [3]]),
        ("[]", []),
        ("[x, y]", ["x", "y"]),
        ("{x: 1, y: [2]}", {"x": 1, "y": [2]}),
        ("a/b_c.py", "a/b_c.py"),
    ],
)
@pytest.mark.bundled_only
def test_values(text, value):
    cfg = LazyConfig.apply_overrides(make(), [f"a.new={text}"])
    assert cfg.a.new == value
    assert type(cfg.a.new) is type(value) or not isinstance(value, (int, float, str))


@pytest.mark.bundled_only
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("null", None),
        ("None", None),
        (".5", 0.5),
        ("5.", 5.0),
        ("1_000", 1000),
        ("007", "007"),
        ("yes", "yes"),
        ("1.2.3", "1.2.3"),
        ("", ""),
        ("x=y", "x=y"),
        ("a,b", "a,b"),
        ("{x:1}", {"x": 1}),
        ("(1, 2)", [1, 2]),
        ("[a:b, 'c,d']", ["a:b", "c,d"]),
        ("'it\\'s'", "it's"),
        ("'C:\\dir'", "C:\\dir"),
        ("[${train.device}, 1]", ["cuda", 1]),
        ("detectron2://x/y.pkl", "detectron2://x/y.pkl"),
    ],
)
def test_values_without_a_yaml_or_hydra_trap(text, value):
    assert LazyConfig.apply_overrides(make(), [f"a.new={text}"]).a.new == value


@pytest.mark.bundled_only
def test_infinities():
    cfg = LazyConfig.apply_overrides(make(), ["a.b=-inf", "a.c=nan"])
    assert cfg.a.b == -math.inf
    assert math.isnan(cfg.a.c)


def test_keys_are_added_and_dicts_merged_in_place():
    cfg = make()
    assert LazyConfig.apply_overrides(cfg, ["a.deep.er=1"]) is cfg
    assert cfg.a == {"b": 1, "c": "x", "deep": {"er": 1}}
    LazyConfig.apply_overrides(cfg, ["a.deep.y=2"])
    assert cfg.a.deep == {"er": 1, "y": 2}


@pytest.mark.bundled_only
def test_dict_values_merge():
    assert LazyConfig.apply_overrides(make(), ["a={b: 9, d: 4}"]).a == {"b": 9, "c": "x", "d": 4}


def test_a_link_is_kept_as_a_link():
    cfg = LazyConfig.apply_overrides(make(), ["a.c='${train.device}'"])
    assert cfg.a.c == "cuda"
    cfg.train.device = "cpu"
    assert cfg.a.c == "cpu"


@pytest.mark.bundled_only
def test_list_items_and_deletion():
    cfg = LazyConfig.apply_overrides(make(), ["items.1.n=7", "items[0].n=6", "~a.c"])
    assert [item.n for item in cfg["items"]] == [6, 7]
    assert cfg.a == {"b": 1}
    LazyConfig.apply_overrides(cfg, ["~items[0]", "+a.z=1", "++a.b=2"])
    assert cfg["items"] == [{"n": 7}]
    assert cfg.a == {"b": 2, "z": 1}


def test_a_key_through_a_value_is_refused():
    with pytest.raises(KeyError, match="a.b"):
        LazyConfig.apply_overrides(make(), ["a.b.c=1"])


@pytest.mark.bundled_only
@pytest.mark.parametrize("override", ["~a.absent", "~absent.x", "items.5.n=1", "items.x=1", "~items[2]"])
def test_absent_items_are_refused(override):
    with pytest.raises(KeyError):
        LazyConfig.apply_overrides(make(), [override])


@pytest.mark.bundled_only
@pytest.mark.parametrize(
    "override", ["a", "=1", "a.b=[1", "a.b='x", "a.b=[1]]", "a.b={x}", "a.b=[1,,2]", "a b=1", "a..b=1"]
)
def test_unreadable_overrides_are_quoted(override):
    with pytest.raises(ValueError, match="Cannot read override") as info:
        LazyConfig.apply_overrides(make(), [override])
    assert repr(override) in str(info.value)
