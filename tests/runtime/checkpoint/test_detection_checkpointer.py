"""Saving, resuming and loading of foreign files; what a file may and may not hold."""

import collections
import logging
import os
import pickle

import numpy as np
import pytest
import torch
from detectron2.checkpoint import Checkpointer, DetectionCheckpointer, PeriodicCheckpointer
from detectron2.solver import LRMultiplier
from fvcore.common.param_scheduler import ConstantParamScheduler
from torch import nn


class Recorder(logging.Logger):
    """A logger that keeps its messages, whatever the logging setup of the test run is."""

    def __init__(self):
        super().__init__("recorder")
        self.messages = []

    def handle(self, record):
        self.messages.append(record.getMessage())


class Stateful:
    def __init__(self, state):
        self.state = state

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state


def small_model(width=3):
    model = nn.Module()
    model.backbone = nn.Sequential(collections.OrderedDict(conv=nn.Linear(2, width), norm=nn.BatchNorm1d(width)))
    model.head = nn.Linear(width, 1)
    model.register_buffer("pixel_mean", torch.zeros(3))
    return model


def filled(model, value):
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(value)
    return model


def train_step(model, optimizer, scheduler):
    torch.manual_seed(0)
    optimizer.zero_grad()
    model.head(model.backbone(torch.rand(4, 2))).pow(2).mean().backward()
    optimizer.step()
    scheduler.step()


def training(seed):
    torch.manual_seed(seed)
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1 * (seed + 1), momentum=0.9)
    return model, optimizer, LRMultiplier(optimizer, ConstantParamScheduler(0.5), max_iter=10)


def test_resumed_training_continues_as_if_never_stopped(tmp_path):
    model, optimizer, scheduler = training(0)
    for _ in range(3):
        train_step(model, optimizer, scheduler)
    DetectionCheckpointer(model, str(tmp_path), optimizer=optimizer, scheduler=scheduler).save(
        "model_0000002", iteration=2, note="x"
    )
    train_step(model, optimizer, scheduler)

    other, other_optimizer, other_scheduler = training(1)
    checkpointer = DetectionCheckpointer(other, str(tmp_path), optimizer=other_optimizer, scheduler=other_scheduler)
    rest = checkpointer.resume_or_load("", resume=True)
    assert (rest["iteration"], rest["note"]) == (2, "x")
    assert other_scheduler.last_epoch == 3
    assert other_optimizer.param_groups[0]["lr"] == pytest.approx(0.05)
    train_step(other, other_optimizer, other_scheduler)
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_without_resume_only_the_model_is_loaded(tmp_path):
    model, optimizer, scheduler = training(0)
    DetectionCheckpointer(filled(model, 3.0), str(tmp_path), optimizer=optimizer).save("a")
    other, other_optimizer, _ = training(1)
    checkpointer = DetectionCheckpointer(other, str(tmp_path), optimizer=other_optimizer)
    checkpointer.resume_or_load(str(tmp_path / "a.pth"), resume=False)
    assert other.head.weight.unique().tolist() == [3.0]
    assert other_optimizer.param_groups[0]["initial_lr"] == pytest.approx(0.2)


def test_last_checkpoint_names_the_last_save(tmp_path):
    checkpointer = DetectionCheckpointer(small_model(), str(tmp_path))
    assert not checkpointer.has_checkpoint()
    periodic = PeriodicCheckpointer(checkpointer, period=2, max_iter=5, max_to_keep=1)
    for i in range(5):
        periodic.step(i)
    assert checkpointer.get_checkpoint_file() == str(tmp_path / "model_final.pth")
    assert sorted(p.name for p in tmp_path.glob("*.pth")) == ["model_0000003.pth", "model_final.pth"]
    assert isinstance(checkpointer, Checkpointer)


def test_only_processes_that_save_write(tmp_path):
    DetectionCheckpointer(small_model(), str(tmp_path), save_to_disk=False).save("a")
    DetectionCheckpointer(small_model(), "").save("a")
    assert list(tmp_path.iterdir()) == []


def test_no_path_leaves_the_model_alone(tmp_path):
    model = filled(small_model(), 2.0)
    assert DetectionCheckpointer(model, str(tmp_path)).load("") == {}
    assert model.head.weight.unique().tolist() == [2.0]


def test_zoo_pickle_of_arrays(tmp_path):
    weights = {k: np.asarray(v.numpy() + 1) for k, v in filled(small_model(), 1.0).state_dict().items()}
    del weights["pixel_mean"]
    path = tmp_path / "zoo.pkl"
    path.write_bytes(pickle.dumps({"model": weights, "__author__": "somebody"}))
    model = small_model()
    checkpointer = DetectionCheckpointer(model)
    checkpointer.logger = Recorder()
    checkpointer.load(str(path))
    assert model.backbone.conv.weight.unique().tolist() == [2.0]
    assert "Reading a file from 'somebody'" in checkpointer.logger.messages
    # the pixel mean comes from the config: its absence is no news
    assert not any("not found" in m for m in checkpointer.logger.messages)


@pytest.mark.parametrize("wrap", [True, False], ids=["detector", "imagenet"])
def test_caffe2_pickle_is_renamed_and_matched(tmp_path, wrap):
    blobs = {
        "conv1_w": np.full((3, 2), 5, np.float32),
        "conv1_w_momentum": np.zeros((3, 2), np.float32),
        "conv1_b": np.full(3, 6, np.float32),
    }
    path = tmp_path / "c2.pkl"
    path.write_bytes(pickle.dumps({"blobs": blobs, "cfg": "text"} if wrap else blobs, protocol=2))
    model = nn.ModuleDict({"backbone": nn.ModuleDict({"stem": nn.ModuleDict({"conv1": nn.Linear(2, 3)})})})
    checkpointer = DetectionCheckpointer(model)
    checkpointer.logger = Recorder()
    checkpointer.load(str(path))
    layer = model["backbone"]["stem"]["conv1"]
    assert layer.weight.unique().tolist() == [5.0]
    assert layer.bias.unique().tolist() == [6.0]
    assert not any("momentum" in m for m in checkpointer.logger.messages)


def test_pycls_file(tmp_path):
    state = {"conv.weight": torch.full((3, 2), 4.0), "norm.num_batches_tracked": torch.tensor(7)}
    torch.save({"model_state": state}, tmp_path / "a.pyth")
    model = small_model()
    DetectionCheckpointer(model).load(str(tmp_path / "a.pyth"))
    assert model.backbone.conv.weight.unique().tolist() == [4.0]
    assert model.backbone.norm.num_batches_tracked.item() == 0


def test_bare_state_dict_and_matching_query(tmp_path):
    torch.save({"conv.weight": torch.full((3, 2), 4.0)}, tmp_path / "a.pth")
    model = filled(small_model(), 1.0)
    checkpointer = DetectionCheckpointer(model)
    checkpointer.load(str(tmp_path / "a.pth"))
    assert model.backbone.conv.weight.unique().tolist() == [1.0]
    checkpointer.load(str(tmp_path / "a.pth") + "?matching_heuristics=True")
    assert model.backbone.conv.weight.unique().tolist() == [4.0]


def test_unknown_query_is_an_error(tmp_path):
    torch.save({}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="strict"):
        DetectionCheckpointer(small_model()).load(str(tmp_path / "a.pth") + "?strict=1")


def test_prefix_of_a_parallel_wrapper_is_dropped(tmp_path):
    model = filled(small_model(), 5.0)
    torch.save({"model": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "a.pth")
    other = filled(small_model(), 1.0)
    DetectionCheckpointer(nn.DataParallel(other)).load(str(tmp_path / "a.pth"))
    assert other.head.weight.unique().tolist() == [5.0]


def test_every_key_that_does_not_fit_is_reported(tmp_path):
    state = filled(small_model(), 2.0).state_dict()
    state["head.weight"] = torch.zeros(1, 9)
    state["extra.weight"] = torch.zeros(1)
    state["rpn.anchor_generator.cell_anchors.0"] = torch.zeros(1)
    del state["backbone.conv.bias"]
    torch.save({"model": state}, tmp_path / "a.pth")
    checkpointer = DetectionCheckpointer(small_model())
    checkpointer.logger = Recorder()
    checkpointer.load(str(tmp_path / "a.pth"))
    log = "\n".join(checkpointer.logger.messages)
    assert "head.weight" in log
    assert "(1, 9)" in log
    assert "(1, 3)" in log
    assert "backbone.conv" in log
    assert "extra" in log
    assert "cell_anchors" not in log


@pytest.mark.bundled_only
def test_file_of_another_model_is_called_that(tmp_path):
    torch.save({"model": {"a.weight": torch.zeros(2)}}, tmp_path / "a.pth")
    checkpointer = DetectionCheckpointer(small_model())
    checkpointer.logger = Recorder()
    checkpointer.load(str(tmp_path / "a.pth"))
    assert any("of another model" in m for m in checkpointer.logger.messages)


class Attack:
    """Unpickling this creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class NestedAttack(Attack):
    """The same inside the bytes of a tensor's storage, which torch's own reader trusts in a plain pickle."""

    def __reduce__(self):
        import io

        stream = io.BytesIO()
        torch.save(Attack(self.path), stream)
        return torch.storage._load_from_bytes, (stream.getvalue(),)


@pytest.mark.bundled_only
@pytest.mark.parametrize("attack", [Attack, NestedAttack])
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_pickle_that_runs_code_is_refused(tmp_path, attack, protocol):
    target = tmp_path / "owned"
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps({"model": {}, "__author__": attack(target)}, protocol=protocol))
    with pytest.raises(pickle.UnpicklingError, match=r"(?s)evil\.pkl.*'(posix|nt)\.mkdir'"):
        DetectionCheckpointer(small_model()).load(str(path))
    assert not target.exists()


@pytest.mark.bundled_only
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("ending", ["pth", "pyth"])
def test_torch_file_that_runs_code_is_refused(tmp_path, zipped, ending):
    target = tmp_path / "owned"
    path = tmp_path / f"evil.{ending}"
    # the deque sends the file through the second reader too
    content = {"model": {}, "ok": collections.deque([1]), "x": Attack(target)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(pickle.UnpicklingError, match=r"(?s)evil\..*'(posix|nt)\.mkdir'"):
        DetectionCheckpointer(small_model()).load(str(path))
    assert not target.exists()


@pytest.mark.bundled_only
@pytest.mark.parametrize("name", ["eval", "exec", "getattr", "__import__", "open"])
def test_dangerous_builtins_are_refused(tmp_path, name):
    path = tmp_path / "evil.pkl"
    path.write_bytes(f"cbuiltins\n{name}\n.".encode())
    with pytest.raises(pickle.UnpicklingError, match=name):
        DetectionCheckpointer(small_model()).load(str(path))


@pytest.mark.bundled_only
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_harmless_pickles_load(tmp_path, protocol):
    model = {
        "fortran": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        "tensor": torch.arange(3.0),
        "float16": np.ones(2, np.float16),
    }
    extra = {"scalar": np.float64(0.5), "names": np.array(["a"]), "set": {1}, "size": torch.Size([2])}
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"model": model, "__author__": "me", **extra}, protocol=protocol))
    module = nn.Module()
    for name, value in model.items():
        module.register_buffer(name, torch.zeros(value.shape, dtype=torch.as_tensor(value).dtype))
    rest = DetectionCheckpointer(module).load(str(path))
    assert module.fortran.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert module.tensor.tolist() == [0, 1, 2]
    assert module.float16.tolist() == [1, 1]
    assert (rest["scalar"], rest["names"].tolist(), rest["set"], rest["size"]) == (0.5, ["a"], {1}, (2,))


@pytest.mark.bundled_only
def test_state_of_hooks_survives(tmp_path):
    state = {
        "best": np.float64(0.25),
        "step": np.int64(3),
        "curve": np.arange(3.0),
        "recent": collections.deque([1.0, 2.0], maxlen=2),
        "count": collections.Counter("aab"),
        "by_class": collections.defaultdict(list, {1: [2]}),
    }
    DetectionCheckpointer(small_model(), str(tmp_path), trainer=Stateful({"hooks": state})).save("a")
    trainer = Stateful(None)
    DetectionCheckpointer(small_model(), str(tmp_path), trainer=trainer).resume_or_load("")
    loaded = trainer.state["hooks"]
    assert loaded["curve"].tolist() == [0, 1, 2]
    assert loaded["recent"].maxlen == 2
    assert loaded["by_class"][5] == []
    for key in ("best", "step", "recent", "count"):
        assert loaded[key] == state[key]
        assert type(loaded[key]) is type(state[key])


class Allowed:
    def __init__(self):
        self.value = 7


@pytest.mark.bundled_only
@pytest.mark.parametrize("ending", ["pth", "pkl"])
def test_user_can_allow_a_class(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    content = {"model": {}, "__author__": "me", "x": Allowed()}
    if ending == "pth":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    checkpointer = DetectionCheckpointer(small_model())
    with pytest.raises(pickle.UnpicklingError, match="Allowed"):
        checkpointer.load(str(path))
    with torch.serialization.safe_globals([Allowed]):
        assert checkpointer.load(str(path))["x"].value == 7


@pytest.mark.bundled_only
@pytest.mark.parametrize("ending", ["pth", "pkl"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"\x80\x02junk"])
def test_damaged_file_is_named(tmp_path, content, ending):
    path = tmp_path / f"broken.{ending}"
    path.write_bytes(content)
    with pytest.raises(RuntimeError, match=r"broken\.p.* is damaged"):
        DetectionCheckpointer(small_model()).load(str(path))


@pytest.mark.bundled_only
def test_interrupted_save_keeps_the_last_good_file(tmp_path, monkeypatch):
    model = filled(small_model(), 1.0)
    checkpointer = DetectionCheckpointer(model, str(tmp_path))
    checkpointer.save("model")
    filled(model, 2.0)

    def full_disk(content, f, *args, **kwargs):
        f.write(b"half a checkpoint")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full_disk)
        for name in ("model", "model_0000001"):
            with pytest.raises(OSError, match="No space"):
                checkpointer.save(name)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last_checkpoint", "model.pth"]
    assert checkpointer.get_checkpoint_file() == str(tmp_path / "model.pth")
    checkpointer.load(checkpointer.get_checkpoint_file())
    assert model.head.weight.unique().tolist() == [1.0]


@pytest.mark.bundled_only
def test_file_is_complete_before_it_has_its_name(tmp_path, monkeypatch):
    seen = []
    replace = os.replace

    def watch(source, target):
        if str(target).endswith(".pth"):
            seen.append((os.path.exists(target), os.path.exists(tmp_path / "last_checkpoint")))
            assert torch.load(source)["iteration"] == 3
            assert os.path.dirname(source) == os.path.dirname(target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", watch)
    DetectionCheckpointer(small_model(), str(tmp_path)).save("a", iteration=3)
    assert seen == [(False, False)]


@pytest.mark.bundled_only
def test_failed_load_does_not_spoil_the_next(tmp_path):
    checkpointer = DetectionCheckpointer(filled(small_model(), 1.0), str(tmp_path))
    checkpointer.save("a")
    with pytest.raises(AssertionError):
        checkpointer.load(str(tmp_path / "missing.pth") + "?matching_heuristics=True")
    filled(checkpointer.model, 2.0)
    checkpointer.load(str(tmp_path / "a.pth"))
    assert checkpointer.model.head.weight.unique().tolist() == [1.0]
