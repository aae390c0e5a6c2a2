"""Counting and comparison helpers."""

import pytest
import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils.analysis import (
    FlopCountAnalysis,
    activation_count_operators,
    find_unused_parameters,
    flop_count_operators,
    parameter_count,
)
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.testing import assert_instances_allclose, random_boxes, reload_lazy_config
from torch import nn


class Detector(nn.Module):
    """Takes and gives what a detector does: list[dict] with a string, and Instances."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.fc = nn.Linear(4, 5)

    def forward(self, inputs):
        x = self.conv(inputs[0]["image"][None]).sigmoid()
        out = Instances((8, 10))
        out.scores = self.fc(x.mean(dim=(2, 3)))
        out.pred_boxes = Boxes(x.flatten()[:4].reshape(1, 4))
        return [{"instances": out, "file": inputs[0]["file"]}]


@pytest.fixture
def inputs():
    return [{"image": torch.rand(3, 8, 10), "file": "a.jpg"}]


def test_flops_of_a_model_with_rich_inputs(inputs):
    model = Detector()
    counts = flop_count_operators(model, inputs)
    assert counts["conv"] == pytest.approx(8 * 10 * 4 * 3 * 9 / 1e9)
    assert counts["linear"] == pytest.approx(4 * 5 / 1e9)
    assert model.training
    by_module = FlopCountAnalysis(model.eval(), inputs).by_module()
    assert sum(v for k, v in by_module.items() if k.endswith("conv")) == 8 * 10 * 4 * 3 * 9


@pytest.mark.bundled_only
def test_activations(inputs):
    model = Detector()
    model.forward = lambda inputs, forward=model.forward: forward([{**inputs[0], "file": ""}])
    counts = activation_count_operators(model, inputs)
    assert counts["conv"] == pytest.approx(8 * 10 * 4 / 1e6)
    with pytest.raises(AssertionError):
        activation_count_operators(model, inputs * 2)


def test_parameter_count():
    assert parameter_count(Detector())[""] == 4 * 27 + 4 + 4 * 5 + 5


def test_unused_parameters():
    class Losses(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x, scale):
            return {"a": self.used(x).sum() * scale, "b": x.sum()}

    model = Losses()
    assert find_unused_parameters(model, (torch.rand(1, 2), 3)) == ["unused.weight", "unused.bias"]
    assert model.used.weight.grad is None
    with pytest.raises(AssertionError):
        find_unused_parameters(model.eval(), torch.rand(1, 2))


def test_random_boxes_draw_once():
    torch.manual_seed(0)
    boxes = random_boxes(50, 10)
    torch.manual_seed(0)
    draw = (torch.rand(50, 4) * 5).clamp(min=1)
    assert torch.equal(boxes[:, :2], draw[:, :2])
    assert torch.equal(boxes[:, 2:], draw[:, :2] + draw[:, 2:])
    assert random_boxes(0).shape == (0, 4)


def instances(**changes):
    fields = {
        "pred_boxes": Boxes(torch.tensor([[0.0, 0, 10, 20]])),
        "scores": torch.tensor([0.5]),
        "pred_classes": torch.tensor([3]),
    }
    return Instances(changes.pop("size", (5, 6)), **{**fields, **changes})


def test_equal_instances():
    assert_instances_allclose(instances(), instances(scores=torch.tensor([0.500001])))
    assert_instances_allclose(instances(), instances(size=[5, 6]), size_as_tensor=True)


@pytest.mark.parametrize(
    "change",
    [
        {"size": (5, 7)},
        {"scores": torch.tensor([0.51])},
        {"pred_classes": torch.tensor([4])},
        {"pred_boxes": Boxes(torch.tensor([[0.0, 0, 10, 20.1]]))},
        {"more": torch.zeros(1)},
    ],
)
def test_different_instances(change):
    with pytest.raises(AssertionError, match="mine"):
        assert_instances_allclose(instances(), instances(**change), msg="mine")


def test_incomparable_field():
    with pytest.raises(ValueError, match="type"):
        assert_instances_allclose(instances(x=["a"]), instances(x=["a"]))


def test_reload_lazy_config():
    from detectron2.config import LazyCall

    assert reload_lazy_config(LazyCall(nn.Linear)(in_features=1)) == {"_target_": "torch.nn.Linear", "in_features": 1}


def test_environment_report():
    report = collect_env_info()
    assert torch.__version__ in report
    for name in ("sys.platform", "detectron2", "torchvision", "fvcore", "DETECTRON2_ENV_MODULE"):
        assert name in report


@pytest.mark.bundled_only
def test_left_out_names_import_and_raise():
    from detectron2._left_out import left_out_class, left_out_function
    from detectron2.utils import testing

    with pytest.raises(NotImplementedError, match="has_dynamic_axes.*export.*upstream"):
        testing.has_dynamic_axes(None)
    with pytest.raises(NotImplementedError, match="f: .*keypoints"):
        left_out_function("f", "keypoints")(1, b=2)
    cls = left_out_class("Thing", "rotated boxes")
    with pytest.raises(NotImplementedError, match="Thing"):
        cls(1)
    with pytest.raises(NotImplementedError, match="Thing.cat"):
        cls.cat([])

    class Child(cls):
        pass

    assert not isinstance(3, cls)
    assert issubclass(Child, cls)
    with pytest.raises(NotImplementedError, match="rotated boxes"):
        Child()
