import copy

import pytest
import torch
from detectron2.engine import SimpleTrainer
from detectron2.engine.hooks import CallbackHook
from torch import nn

from instseg_d2.engine.trainer import NonFiniteLossError, Trainer


class Regression(nn.Module):
    """Loss (w x - y)^2 in two named parts."""

    def __init__(self, weight: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, batch: list[dict]) -> dict[str, torch.Tensor]:
        x = torch.tensor([item["x"] for item in batch])
        error = (self.weight * x - 3 * x) ** 2
        return {"loss_first": error[0], "loss_second": error[1:].sum()}


def endless(values):
    while True:
        yield [{"x": value, "image_id": 40 + index} for index, value in enumerate(values)]


def trained(cls, model, steps=5, values=(1.0, 2.0), **kwargs):
    trainer = cls(model, endless(values), torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9), **kwargs)
    trainer.train(0, steps)
    return trainer


def test_equals_detectron2s_simple_trainer():
    ours, theirs = Regression(), Regression()
    trained(Trainer, ours)
    trained(SimpleTrainer, theirs)
    assert ours.weight.item() != 0
    assert torch.equal(ours.weight, theirs.weight)


def test_clipping_limits_the_step_and_reports_the_norm():
    model = Regression()
    trainer = trained(Trainer, model, steps=1, clip_grad_norm=0.5)
    # d/dw (w x - 3 x)^2 at 0 is -6 x^2, summed over x = 1 and 2: -30; the step is lr times the clipped 0.5.
    assert trainer.storage.latest()["grad_norm"][0] == pytest.approx(30)
    assert model.weight.item() == pytest.approx(0.005, rel=1e-4)


def test_bfloat16_trains():
    model = Regression()
    trained(Trainer, model, steps=60, amp_dtype=torch.bfloat16)
    assert model.weight.item() == pytest.approx(3, abs=0.2)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_loss_names_everything_and_keeps_the_weights(bad):
    model = Regression(1.0)
    with pytest.raises(NonFiniteLossError) as caught:
        trained(Trainer, model, values=(1.0, bad))
    text = str(caught.value)
    for part in ("iteration 0", "loss_first=4", "loss_second=", "image ids: 40, 41", "lr: 0.01"):
        assert part in text
    assert model.weight.item() == 1.0


def test_state_round_trip_continues_equally():
    straight = Regression()
    trained(Trainer, straight, steps=6)

    half = Regression()
    first = Trainer(half, endless((1.0, 2.0)), torch.optim.SGD(half.parameters(), lr=0.01, momentum=0.9))
    saved = {}
    first.register_hooks([CallbackHook(after_step=lambda trainer: saved.update(copy.deepcopy(trainer.state_dict())))])
    first.train(0, 3)
    second = Trainer(half, endless((1.0, 2.0)), torch.optim.SGD(half.parameters(), lr=0.5, momentum=0.9))
    second.load_state_dict(saved)
    assert second.iter == 2
    second.train(second.iter + 1, 6)
    assert torch.equal(half.weight, straight.weight)
