"""The teacher: a copy when training starts, an average then; seen by checkpoints and by nothing else."""

import copy

import pytest
import torch
from torch import nn

from instseg_d2.checkpoint.checkpointer import CheckpointError
from instseg_d2.modeling.meta_arch.sim.teacher import MomentumTeacher


class Model(nn.Module):
    def __init__(self, width=3):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(2, width, 1), nn.BatchNorm2d(width), nn.Dropout(0.5))
        self.other = nn.Linear(2, 2)
        self.teacher = MomentumTeacher(students={"body": self.body}, momentum=0.9)


def started():
    model = Model()
    model.teacher.follow()
    return model


def change(model, by=1.0):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += by


def test_starts_as_the_student_and_follows():
    model = Model()
    assert not model.teacher.started
    change(model)
    model.teacher.follow()
    weight = model.body[0].weight.detach().clone()
    assert torch.equal(model.teacher["body"][0].weight, weight)
    change(model)
    assert torch.equal(model.teacher["body"][0].weight, weight)
    model.teacher.follow()
    assert torch.allclose(model.teacher["body"][0].weight, weight + 0.1)
    change(model)
    model.teacher.follow()
    assert torch.allclose(model.teacher["body"][0].weight, weight + 0.9 * 0.1 + 0.1 * 2)


def test_nothing_but_checkpoints_sees_it():
    plain, model = Model(), started()
    for kind in ("parameters", "buffers", "modules"):
        assert len(list(getattr(plain, kind)())) == len(list(getattr(model, kind)()))
    added = set(model.state_dict()) - set(plain.state_dict())
    assert added == {f"teacher.{name}" for name in plain.state_dict() if name.startswith("body.")}
    assert not any(parameter.requires_grad for parameter in model.teacher["body"].parameters())


def test_checkpoint_and_back():
    model = started()
    change(model)
    model.teacher.follow()
    restored = Model()
    assert restored.load_state_dict(model.state_dict()) == ([], [])
    assert restored.teacher.started
    for name, value in model.state_dict().items():
        assert torch.equal(restored.state_dict()[name], value)
    assert not restored.teacher["body"][0].weight.requires_grad


def test_a_checkpoint_without_teacher_starts_it_anew():
    model, weights = started(), Model().state_dict()
    assert model.load_state_dict(weights) == ([], [])
    assert not model.teacher.started
    model.teacher.follow()
    assert torch.equal(model.teacher["body"][0].weight, weights["body.0.weight"])


def test_a_teacher_of_another_shape_is_left_out(caplog):
    model, other = Model(), Model(width=5)
    other.teacher.follow()
    state = {name: value for name, value in other.state_dict().items() if name.startswith("teacher.")}
    model.load_state_dict(state, strict=False)
    assert not model.teacher.started
    assert "starts from the student" in caplog.text


def test_batch_norm_alone_knows_the_mode():
    model = started().train()
    assert model.teacher["body"][1].training
    assert not model.teacher["body"][2].training
    before = model.teacher["body"][1].running_mean.clone()
    model.teacher["body"](torch.randn(4, 2, 3, 3) + 5)
    assert not torch.equal(model.teacher["body"][1].running_mean, before)
    assert model.body[1].running_mean.abs().sum() == 0
    assert not model.eval().teacher["body"][1].training


def test_stands_in_for_the_student():
    model = started()
    change(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with model.teacher.in_place_of_students():
        assert torch.equal(model.body[0].weight, before["teacher.body.0.weight"])
        assert torch.equal(model.teacher["body"][0].weight, before["body.0.weight"])
    with pytest.raises(KeyError), model.teacher.in_place_of_students():
        raise KeyError
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(CheckpointError, match="no teacher"), Model().teacher.in_place_of_students():
        pass


def test_moves_with_the_model_and_is_copied_with_it():
    model = started().double()
    assert model.teacher["body"][0].weight.dtype == torch.float64
    twin = copy.deepcopy(model)
    change(twin)
    twin.teacher.follow()
    assert torch.allclose(twin.teacher["body"][0].weight, model.teacher["body"][0].weight + 0.1)
    assert torch.equal(model.teacher["body"][0].weight, model.body[0].weight)
