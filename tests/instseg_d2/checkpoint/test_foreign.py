import io
import pickle
import re
import zipfile

import numpy as np
import pytest
import torch

from instseg_d2.checkpoint import CheckpointError
from instseg_d2.checkpoint.foreign import read_tensors

WEIGHT = torch.arange(6.0).reshape(2, 3)


class Config:
    """Stands for any class that a training script has put into its checkpoint."""


class Trap:
    def __init__(self, victim):
        self.victim = victim

    def __reduce__(self):
        return (open, (str(self.victim), "w"))


def check(tensors, *names):
    assert tuple(tensors) == (names or ("a.weight",))
    for value in tensors.values():
        assert torch.equal(value, WEIGHT)
        assert not value.requires_grad


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "as before torch 1.6"])
@pytest.mark.parametrize(
    "content",
    [
        {"a.weight": WEIGHT},
        {"model": {"a.weight": WEIGHT}, "iteration": 9, "scheduler": {"milestones": (3, 4)}},
        {"meta": {"epoch": 12, "time": "Thu", "best": np.float64(0.5)}, "state_dict": {"a.weight": WEIGHT}},
        {"model": {"module.a.weight": torch.nn.Parameter(WEIGHT)}},
        {"model": {"a.weight": WEIGHT.numpy()}},
    ],
    ids=["bare", "detectron2", "mmcv", "wrapped", "arrays"],
)
def test_files_of_torch(tmp_path, content, zipped):
    path = tmp_path / "weights.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    check(read_tensors(path))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles_of_arrays(tmp_path, protocol):
    path = tmp_path / "weights.pkl"
    content = {"model": {"a.weight": WEIGHT.numpy(), "b": WEIGHT.numpy()}, "__author__": "someone", "x": np.float32(1)}
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    check(read_tensors(path), "a.weight", "b")


def test_pickle_of_the_other_numpy(tmp_path):
    path = tmp_path / "weights.pkl"
    # protocol 0 spells module names as lines of text
    text = pickle.dumps({"a.weight": WEIGHT.numpy()}, protocol=0)
    mine = np.zeros(1).__reduce__()[0].__module__.encode()
    other = b"numpy.core.multiarray" if b"_core" in mine else b"numpy._core.multiarray"
    assert text.count(mine) == 1
    path.write_bytes(text.replace(mine, other))
    check(read_tensors(path))


def test_a_prefix_of_some_names_stays(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"module.a": WEIGHT, "b": WEIGHT}, path)
    check(read_tensors(path), "module.a", "b")


@pytest.mark.parametrize("ending", ["pth", "pkl"])
def test_nothing_is_run(tmp_path, ending):
    path, victim = tmp_path / f"weights.{ending}", tmp_path / "victim"
    content = {"model": {"a.weight": WEIGHT.numpy()}, "trap": Trap(victim)}
    if ending == "pth":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(
        CheckpointError, match=r"asks for '(_io|io)\.open', which could run code.*save its tensors alone"
    ):
        read_tensors(path)
    assert not victim.exists()


def test_a_class_of_another_project_is_named(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"model": {"a.weight": WEIGHT}, "cfg": Config()}, path)
    with pytest.raises(CheckpointError, match=re.escape(f"{path} was not read: it holds more than tensors")) as error:
        read_tensors(path)
    assert "test_foreign.Config'" in str(error.value)


def test_allowed_names_stay_with_the_reader(tmp_path):
    before = set(torch.serialization.get_safe_globals())
    path = tmp_path / "weights.pth"
    torch.save({"a.weight": WEIGHT.numpy()}, path)
    read_tensors(path)
    assert set(torch.serialization.get_safe_globals()) == before


def whole_file():
    buffer = io.BytesIO()
    torch.save({"a.weight": WEIGHT}, buffer)
    return buffer.getvalue()


def zip_file():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("readme.txt", "hello")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("ending", "data"),
    [
        ("pth", b""),
        ("pth", b"<html>quota exceeded</html>"),
        ("pth", whole_file()[:-100]),
        ("pth", zip_file()),
        ("pkl", b""),
        ("pkl", b"not a pickle"),
        ("pkl", pickle.dumps({"a.weight": WEIGHT.numpy()})[:-30]),
    ],
    ids=["empty", "html", "cut", "zip", "empty pickle", "text", "cut pickle"],
)
def test_damaged_files(tmp_path, ending, data):
    path = tmp_path / f"weights.{ending}"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=re.escape(f"{path} is damaged or no checkpoint: ")):
        read_tensors(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([WEIGHT], "holds a list; a checkpoint is a dict"),
        ({}, "holds no tensors"),
        ({"model": {}, "iteration": 3}, "holds no tensors"),
        ({"weights": {"a": WEIGHT}}, "'weights' is of type dict, not a tensor.*'model' or 'state_dict'"),
        ({"model": {"a": WEIGHT, "epoch": 3}}, "'epoch' is of type int, not a tensor"),
        ({"model": {"a": np.array(["x"])}}, "'a' is of type ndarray, not a tensor"),
        ({3: WEIGHT}, "'3' is of type Tensor"),
    ],
)
def test_files_of_something_else(tmp_path, content, words):
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=words):
        read_tensors(path)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        read_tensors(tmp_path / "nowhere.pth")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pkl"):
        read_tensors(tmp_path / "nowhere.pkl")
    with pytest.raises(OSError, match=re.escape(str(tmp_path))):
        read_tensors(tmp_path)
