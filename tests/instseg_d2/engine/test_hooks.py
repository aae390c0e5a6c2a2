import os
import signal

import pytest
import torch
from detectron2.engine import TrainerBase
from detectron2.utils.events import EventStorage
from torch import nn

from instseg_d2.engine.hooks import BestCheckpoint, EMAHook, StopOnSignal, TrainingStopped


class Steps(TrainerBase):
    """A training whose step is a function of the iteration."""

    def __init__(self, step, hooks) -> None:
        super().__init__()
        self.step = step
        self.register_hooks(hooks)

    def run_step(self) -> None:
        self.step(self)


def test_ema_follows_its_recursion():
    model = nn.BatchNorm1d(1)
    hook = EMAHook(model, decay=0.5)

    def step(trainer) -> None:
        model.weight.data.fill_(float(trainer.iter + 1))
        model.running_mean.fill_(float(trainer.iter))

    Steps(step, [hook]).train(0, 3)
    # The first step copies 1; then min(0.5, (1 + n) / (10 + n)) weighs the old average, n = 1 and 2.
    expected = 1.0
    for n, value in ((1, 2.0), (2, 3.0)):
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * value
    assert hook.averaged.module.weight.item() == pytest.approx(expected)
    assert hook.averaged.module.running_mean.item() == 2.0

    restored = EMAHook(nn.BatchNorm1d(1), decay=0.5)
    restored.load_state_dict(hook.state_dict())
    assert restored.averaged.module.weight.item() == pytest.approx(expected)
    assert int(restored.averaged.n_averaged) == 3


class Recorder:
    def __init__(self) -> None:
        self.written = []

    def write(self, name, **extra) -> None:
        self.written.append((name, extra["iteration"], extra["metric"]))


def test_best_checkpoint_is_written_on_improvement_only():
    recorder = Recorder()
    values = {1: 10.0, 3: 30.0, 5: 20.0, 7: float("nan"), 9: 40.0}

    def step(trainer) -> None:
        if trainer.iter in values:
            trainer.storage.put_scalar("segm/AP", values[trainer.iter], smoothing_hint=False)

    hook = BestCheckpoint(recorder, "segm/AP")
    Steps(step, [hook]).train(0, 10)
    assert [entry[1] for entry in recorder.written] == [1, 3, 9]
    assert recorder.written[-1] == ("model_best", 9, {"segm/AP": 40.0})

    resumed = BestCheckpoint(recorder, "segm/AP")
    resumed.load_state_dict(hook.state_dict())
    Steps(lambda t: t.storage.put_scalar("segm/AP", 35.0, smoothing_hint=False), [resumed]).train(10, 12)
    assert len(recorder.written) == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_saves_and_stops_after_the_iteration(number):
    saved = []
    hook = StopOnSignal(lambda name, **extra: saved.append((name, extra)))
    done = []

    def step(trainer) -> None:
        if trainer.iter == 2:
            os.kill(os.getpid(), number)
        done.append(trainer.iter)

    before = signal.getsignal(number)
    with pytest.raises(TrainingStopped) as caught, hook.listening():
        Steps(step, [hook]).train(0, 10)
    assert caught.value.code == 128 + number
    assert done == [0, 1, 2]
    assert saved == [("model_0000002", {"iteration": 2})]
    assert signal.getsignal(number) is before


def test_no_signal_no_stop():
    saved = []
    hook = StopOnSignal(lambda name, **extra: saved.append(name))
    with hook.listening(), EventStorage(0):
        Steps(lambda trainer: torch.zeros(1), [hook]).train(0, 3)
    assert saved == []
