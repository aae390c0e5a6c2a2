"""Lazy configs: loading, relative imports, saving, printing."""

import builtins
import logging
import sys

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig, instantiate
from omegaconf import DictConfig, ListConfig


class MakeAdder:
    def __init__(self, n):
        self.n = n

    def __call__(self, x):
        return self.n + x


def write(folder, **files):
    """Write files given as `a__b` for a/b.py."""
    for name, text in files.items():
        path = folder / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def clean_importer(monkeypatch):
    # Upstream leaves its own importer behind after a failure; put Python's back.
    monkeypatch.setattr(builtins, "__import__", builtins.__import__)


def test_relative_imports_need_no_package_and_reach_parents(tmp_path):
    write(
        tmp_path,
        common__optim="optimizer = dict(lr=0.1, nested=dict(x=1))",
        common__models__net="from ..optim import optimizer\nnet = dict(lr='${.other}', other=optimizer.nested.x)",
        method__a="from ..common.optim import optimizer\nfrom ..common.models.net import net\noptimizer.lr = 5",
    )
    cfg = LazyConfig.load(str(tmp_path / "method" / "a.py"))
    assert isinstance(cfg.optimizer, DictConfig)
    assert cfg.optimizer.lr == 5
    assert cfg.net.lr == 1
    assert not any("cfg_loader" in name for name in sys.modules)


def test_working_directory_relative_paths(tmp_path, monkeypatch):
    write(tmp_path, base="x = dict(a=1)", sub__a="from ..base import x", up__b="from ..sub.a import x")
    monkeypatch.chdir(tmp_path / "up")
    assert LazyConfig.load("../up/b.py").x.a == 1
    assert LazyConfig.load("../up/./b.py", "x").a == 1


@pytest.mark.bundled_only
def test_going_up_from_the_working_directory(tmp_path, monkeypatch):
    write(tmp_path, base="x = dict(a=1)", sub__a="from ..base import x", sub__deep__b="from ...sub.a import x")
    monkeypatch.chdir(tmp_path / "sub")
    assert LazyConfig.load("a.py").x.a == 1
    monkeypatch.chdir(tmp_path / "sub" / "deep")
    assert LazyConfig.load("b.py").x.a == 1


def test_each_load_gives_new_objects(tmp_path):
    write(tmp_path, base="x = dict(a=[1])", a="from .base import x")
    first = LazyConfig.load(str(tmp_path / "a.py"))
    first.x.a.append(2)
    assert LazyConfig.load(str(tmp_path / "a.py")).x.a == [1]


def test_keys_and_what_is_exported(tmp_path):
    write(
        tmp_path,
        a="from omegaconf import ListConfig\nx = dict(a=1)\n_hidden = dict(a=2)\nnumber = 3\nitems = ListConfig([4])",
    )
    file = str(tmp_path / "a.py")
    assert set(LazyConfig.load(file)) == {"x", "items"}
    assert LazyConfig.load(file, "number") == 3
    x, hidden = LazyConfig.load(file, ("x", "_hidden"))
    assert x.a == 1
    assert isinstance(hidden, DictConfig)
    with pytest.raises(KeyError, match="absent"):
        LazyConfig.load(file, "absent")


def test_other_file_types_are_refused(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(ValueError, match="a.json"):
        LazyConfig.load(str(tmp_path / "a.json"))


def test_load_rel_starts_at_the_calling_file(tmp_path):
    load = "from detectron2.config import LazyConfig\ny = LazyConfig.load_rel('../other.py', 'x')"
    write(tmp_path, other="x = dict(a=7)", sub__a=load)
    assert LazyConfig.load(str(tmp_path / "sub" / "a.py")).y.a == 7


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("from .absent import x", ImportError),
        ("from . import base", ImportError),
        ("from .folder import x", ImportError),
        ("x = (", SyntaxError),
        ("raise RuntimeError('no')", RuntimeError),
    ],
)
def test_broken_configs_raise(tmp_path, clean_importer, text, error):
    write(tmp_path, a=text, base="x = {}", folder__b="x = {}")
    with pytest.raises(error):
        LazyConfig.load(str(tmp_path / "a.py"))


@pytest.mark.bundled_only
def test_a_failing_config_leaves_the_importer_alone(tmp_path):
    before = builtins.__import__
    write(tmp_path, base="raise RuntimeError('no')", a="from .base import x")
    with pytest.raises(RuntimeError):
        LazyConfig.load(str(tmp_path / "a.py"))
    assert builtins.__import__ is before


@pytest.mark.bundled_only
def test_import_errors_name_file_and_line(tmp_path):
    write(tmp_path, a="x = 1\n\nfrom .base import nothing", base="something = {}")
    with pytest.raises(ImportError, match=r"a\.py, line 3.*'nothing'.*base\.py does not define it"):
        LazyConfig.load(str(tmp_path / "a.py"))
    write(tmp_path, a="from .b import x", b="y = 1\nx = = 2")
    with pytest.raises(SyntaxError, match="b.py") as info:
        LazyConfig.load(str(tmp_path / "a.py"))
    assert info.value.lineno == 2


@pytest.mark.bundled_only
def test_circular_imports_are_named(tmp_path):
    write(tmp_path, a="from .b import x", b="from .a import x")
    with pytest.raises(ImportError, match="circle.*a.py -> .*b.py -> .*a.py"):
        LazyConfig.load(str(tmp_path / "a.py"))


@pytest.mark.bundled_only
def test_star_import_and_import_inside_a_function(tmp_path):
    write(
        tmp_path,
        base="x = dict(a=1)\ny = dict(b=2)",
        a="from .base import *\ndef later():\n    from .base import x\n    return x\nlater_too = dict(f=later)",
    )
    cfg = LazyConfig.load(str(tmp_path / "a.py"))
    assert (cfg.x.a, cfg.y.b) == (1, 2)
    assert cfg.later_too.f().a == 1


def test_lazy_call_takes_callables_paths_and_descriptions():
    assert instantiate(L("torch.nn.Linear")(in_features=2, out_features=3)).out_features == 3
    assert instantiate(L({"_target_": MakeAdder, "n": 2})(x=5)) == 7
    for bad in (3, [1]):
        with pytest.raises(TypeError):
            L(bad)


def test_save_writes_paths_and_keeps_interpolations(tmp_path):
    layer = L(torch.nn.Linear)(in_features="${..n}", out_features=2)
    cfg = DictConfig({"n": 3, "layer": layer}, flags={"allow_objects": True})
    LazyConfig.save(cfg, str(tmp_path / "c.yaml"))
    again = LazyConfig.load(str(tmp_path / "c.yaml"))
    assert again.layer._target_ == "torch.nn.Linear"
    assert cfg.layer._target_ is torch.nn.Linear
    again.n = 5
    assert instantiate(again.layer).in_features == 5
    assert not (tmp_path / "c.yaml.pkl").exists()


def test_save_falls_back_to_pickle(tmp_path):
    import pickle

    cfg = DictConfig({"f": lambda: 3}, flags={"allow_objects": True})
    logger = logging.getLogger("detectron2.config.lazy")
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    logger.addHandler(handler)
    try:
        LazyConfig.save(cfg, str(tmp_path / "c.yaml"))
    finally:
        logger.removeHandler(handler)
    with open(tmp_path / "c.yaml.pkl", "rb") as f:
        assert pickle.load(f).f() == 3
    assert any(r.levelno >= logging.WARNING for r in records)


@pytest.mark.bundled_only
def test_save_pickles_a_lambda_target(tmp_path):
    LazyConfig.save(L(lambda x: x + 1)(x=1), str(tmp_path / "c.yaml"))
    assert (tmp_path / "c.yaml.pkl").exists()


@pytest.mark.bundled_only
def test_to_py_wraps_and_quotes():
    cfg = DictConfig(
        {"b": L(torch.nn.Linear)(in_features=1, out_features="${c.x}"), "c": {"x": 2, "s": "it's", "l": [1, "a"]}},
        flags={"allow_objects": True},
    )
    assert LazyConfig.to_py(cfg) == (
        'cfg.b = torch.nn.Linear(in_features=1, out_features=2)\ncfg.c.l = [1, "a"]\ncfg.c.s = "it\'s"\ncfg.c.x = 2\n'
    )
    wide = LazyConfig.to_py(DictConfig({"l": ["x" * 30] * 3}), prefix="")
    assert wide == "l = [\n" + f'    "{"x" * 30}",\n' * 3 + "]\n"


def test_instantiate_keeps_container_kinds():
    kinds = []

    def keep(**kwargs):
        kinds.extend(type(v) for v in kwargs.values())

    instantiate(L(keep)(a=[1, {"_target_": "builtins.dict"}], b={"x": 1}))
    assert kinds == [ListConfig, DictConfig]
    instantiate({"_target_": keep, "a": [1], "b": {"x": 1}})
    assert kinds[2:] == [list, dict]


def test_instantiate_names_a_failing_target(caplog):
    with pytest.raises(TypeError):
        instantiate({"_target_": torch.nn.Linear, "wrong": 1})
    with pytest.raises(ImportError):
        instantiate({"_target_": "torch.nn.DoesNotExist"})
