import errno
import logging

import pytest
import torch
from torch import nn

from instseg_d2.checkpoint import Checkpointer, CheckpointMismatchError, load_weights


def model(width: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width))


def test_save_and_load_round_trip(tmp_path):
    saved, loaded = model(), model()
    saved[1].running_mean.fill_(5)
    Checkpointer(saved, str(tmp_path)).save("model_0000009", iteration=9)
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000009.pth"
    load_weights(loaded, str(tmp_path / "model_0000009.pth"))
    assert all(
        torch.equal(a, b) for a, b in zip(saved.state_dict().values(), loaded.state_dict().values(), strict=True)
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last_checkpoint", "model_0000009.pth"]


def test_write_does_not_move_the_point_of_resumption(tmp_path):
    checkpointer = Checkpointer(model(), str(tmp_path))
    checkpointer.save("model_0000009")
    checkpointer.write("model_best")
    assert (tmp_path / "model_best.pth").is_file()
    assert checkpointer.get_checkpoint_file().endswith("model_0000009.pth")


def test_full_disk_leaves_the_earlier_checkpoint_and_says_so(tmp_path, monkeypatch):
    checkpointer = Checkpointer(model(), str(tmp_path))
    checkpointer.save("model_final")
    before = (tmp_path / "model_final.pth").read_bytes()

    def half_a_file(data, path):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", half_a_file)
    with pytest.raises(
        OSError, match=r"cannot write .*model_final.pth .*No space left.*Earlier checkpoints are untouched"
    ):
        checkpointer.save("model_final")
    assert (tmp_path / "model_final.pth").read_bytes() == before
    assert not list(tmp_path.glob("*.partial"))


def test_checkpoint_of_another_model_is_refused_with_names_and_shapes(tmp_path, caplog):
    caplog.set_level(logging.CRITICAL)
    Checkpointer(model(width=4), str(tmp_path)).save("other")
    with pytest.raises(CheckpointMismatchError, match=r"belongs to another model: 4 of 4 .*\(4, 2\), model \(3, 2\)"):
        load_weights(model(), str(tmp_path / "other.pth"))


def test_part_of_a_model_is_accepted_only_when_asked_for(tmp_path, caplog):
    caplog.set_level(logging.CRITICAL)
    part = nn.Sequential(nn.Linear(2, 3))
    path = str(tmp_path / "part.pth")
    Checkpointer(part, str(tmp_path)).save("part")
    whole = model()
    with pytest.raises(CheckpointMismatchError, match=r"2 of 4 parameters are not in it.*1\.weight"):
        load_weights(whole, path)
    load_weights(whole, path, partial=True)
    assert torch.equal(whole[0].weight, part[0].weight)


def test_nothing_in_common_is_refused_even_in_part(tmp_path, caplog):
    caplog.set_level(logging.CRITICAL)
    Checkpointer(nn.ModuleDict({"other": nn.Conv2d(1, 1, 1)}), str(tmp_path)).save("other")
    with pytest.raises(CheckpointMismatchError, match="4 of 4"):
        load_weights(model(), str(tmp_path / "other.pth"), partial=True)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.pth"):
        load_weights(model(), str(tmp_path / "nowhere.pth"))
