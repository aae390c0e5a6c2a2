import re

import pytest
import torch
from torch import nn

from instseg_d2.checkpoint import CheckpointMismatchError, load_weights
from instseg_d2.checkpoint.conversion import compare, group_names, rename, write_weights


def model():
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def test_names_are_grouped_by_module():
    names = ["b.weight", "a.x.weight", "scale", "a.x.bias", "a.weight"]
    assert group_names(names) == ["scale", "a.weight", "a.x.{bias, weight}", "b.weight"]
    assert group_names([]) == []


def test_rename():
    state = {"old.weight": torch.zeros(1), "old.bias": torch.ones(1)}
    renamed = rename(state, lambda name: name.replace("old", "new"), "it")
    assert {name: value.item() for name, value in renamed.items()} == {"new.weight": 0, "new.bias": 1}
    state |= {"a.weight": torch.zeros(1), "a.bias": torch.zeros(1), "b": torch.zeros(1)}
    message = "3 of 5 tensors are no part of it:\n  b\n  a.{bias, weight}"
    with pytest.raises(CheckpointMismatchError, match=f"^{re.escape(message)}$"):
        rename(state, lambda name: name if name.startswith("old") else None, "it")


def test_a_model_fits_itself():
    differences = compare(model().state_dict(), model())
    assert not differences
    assert str(differences) == ""


def test_counters_may_lack_on_either_side():
    state = model().state_dict()
    del state["1.num_batches_tracked"], state["1.running_mean"]
    state["steps"] = torch.zeros(())
    assert len(compare(state, model())) == 2
    assert not compare(state, model(), counters=("steps", "1.running_mean"))


def test_every_difference_is_named():
    state = model().state_dict()
    state["0.weight"] = torch.zeros(3, 4)
    state |= {f"2.{name}": torch.zeros(1) for name in ("weight", "bias")}
    for name in ("1.running_mean", "1.running_var", "0.bias"):
        del state[name]
    differences = compare(state, model())
    assert len(differences) == 6
    assert str(differences) == (
        "missing in the file (3):\n  0.bias\n  1.{running_mean, running_var}\n"
        "without a place in the model (2):\n  2.{bias, weight}\n"
        "of another shape (1):\n  0.weight: file (3, 4), model (3, 2)"
    )


def test_written_weights_load_and_tell_their_source(tmp_path):
    saved, loaded = model(), model()
    path = tmp_path / "weights.pth"
    path.write_text("older")
    write_weights(path, saved.state_dict(), {"format": "made up"})
    load_weights(loaded, str(path))
    assert torch.equal(loaded[0].weight, saved[0].weight)
    assert torch.load(path, weights_only=True)["converted_from"] == {"format": "made up"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["weights.pth"]


def test_a_full_disk_leaves_the_older_file(tmp_path, monkeypatch):
    path = tmp_path / "weights.pth"
    path.write_text("older")

    def half_a_file(data, partial):
        partial.write_bytes(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file")

    monkeypatch.setattr(torch, "save", half_a_file)
    with pytest.raises(OSError, match=r"cannot write .*weights.pth .*MiB are free there. Nothing was written."):
        write_weights(path, model().state_dict(), {})
    assert path.read_text() == "older"
    assert [entry.name for entry in tmp_path.iterdir()] == ["weights.pth"]
