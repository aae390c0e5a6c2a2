"""Standard hooks: when they act, what they store, what they leave on disk."""

import json
import logging
import math

import pytest
import torch
from detectron2.engine import SimpleTrainer, hooks
from detectron2.utils.events import EventStorage, EventWriter, JSONWriter
from fvcore.common.checkpoint import Checkpointer
from fvcore.common.param_scheduler import LinearParamScheduler
from torch import nn


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm1d(2, momentum=0.5)

    def forward(self, x):
        return {"loss": self.bn(x).square().mean()}


def batches(value=None):
    while True:
        yield torch.randn(4, 2) if value is None else value


def make_trainer(model=None, data=None):
    model = Small() if model is None else model
    return SimpleTrainer(model, batches() if data is None else data, torch.optim.SGD(model.parameters(), 0.1))


def train(hook_list, num_iter, start=0):
    trainer = make_trainer()
    trainer.register_hooks(hook_list)
    trainer.train(start, num_iter)
    return trainer


def test_callback_hook_passes_the_trainer_and_drops_its_functions():
    calls = []
    hook = hooks.CallbackHook(
        before_train=lambda t: calls.append(("bt", t.iter)),
        after_step=lambda t: calls.append(("as", t.iter)),
        after_train=lambda t: calls.append(("at", t.iter)),
    )
    train([hook], 2)
    assert calls == [("bt", 0), ("as", 0), ("as", 1), ("at", 2)]
    assert not any(callable(v) for v in vars(hook).values())


def test_timer_skips_the_warm_up_and_logs_the_speed(caplog):
    with caplog.at_level(logging.INFO, logger="detectron2.engine.hooks"):
        trainer = train([hooks.IterationTimer(warmup_iter=3)], 14, start=4)
    assert [i for _, i in trainer.storage.history("time").values()] == list(range(6, 14))
    assert "Overall training speed: 8 iterations in 0:00:00" in caplog.text


class CountingWriter(EventWriter):
    def __init__(self):
        self.at, self.closed = [], 0

    def write(self):
        from detectron2.utils.events import get_event_storage

        self.at.append(get_event_storage().iter)

    def close(self):
        self.closed += 1


def test_writer_writes_by_period_at_the_last_iteration_and_at_the_end():
    writer = CountingWriter()
    train([hooks.PeriodicWriter([writer], period=4)], 10)
    assert (writer.at, writer.closed) == ([3, 7, 9, 10], 1)
    with pytest.raises(AssertionError):
        hooks.PeriodicWriter([object()])


def test_periodic_checkpointer_files(tmp_path):
    trainer = make_trainer()
    checkpointer = Checkpointer(trainer.model, str(tmp_path), trainer=trainer)
    trainer.register_hooks([hooks.PeriodicCheckpointer(checkpointer, 4)])
    trainer.train(0, 10)
    assert sorted(p.name for p in tmp_path.glob("*.pth")) == [
        "model_0000003.pth",
        "model_0000007.pth",
        "model_final.pth",
    ]
    state = torch.load(tmp_path / "model_0000003.pth", weights_only=False)
    assert state["iteration"] == 3
    assert state["trainer"]["iteration"] == 3


@pytest.mark.parametrize(
    ("mode", "values", "saved_at", "best"),
    [
        ("max", [0.3, 0.4, 0.35, 0.4], [9, 19], (0.4, 19)),
        ("min", [1.0, 0.8, 0.9, 0.7], [9, 19, 40], (0.7, 40)),
        ("max", [math.nan, 0.1, math.nan, 0.05], [19], (0.1, 19)),
    ],
)
def test_best_checkpointer_saves_improvements_only(mode, values, saved_at, best):
    saved = []

    class Store:
        def save(self, name, **state):
            saved.append((name, state))

    results = iter(values)
    hook = hooks.BestCheckpointer(10, Store(), "segm/AP", mode=mode, file_prefix="top")
    train([hooks.EvalHook(10, lambda: {"segm": {"AP": next(results)}}), hook], 40)
    assert saved == [("top", {"iteration": i}) for i in saved_at]
    assert (hook.best_metric, hook.best_iter) == best


def test_best_checkpointer_without_its_metric_warns(caplog):
    with caplog.at_level(logging.WARNING, logger="detectron2.engine.hooks"):
        train([hooks.BestCheckpointer(5, None, "nothing/AP")], 5)
    assert "nothing/AP" in caplog.text
    with pytest.raises(AssertionError, match="median"):
        hooks.BestCheckpointer(5, None, "x", mode="median")


def test_eval_hook_flattens_and_counts(tmp_path):
    trainer = make_trainer()
    results = {"segm": {"AP": 1, "by_size": {"APs": torch.tensor(0.5)}}, "speed": 2.5}
    trainer.register_hooks(
        [hooks.EvalHook(4, lambda: results), hooks.PeriodicWriter([JSONWriter(str(tmp_path / "m.json"))], 20)]
    )
    trainer.train(0, 10)
    history = {k: v.values() for k, v in trainer.storage.histories().items() if "/" in k or k == "speed"}
    assert history == {
        "segm/AP": [(1.0, 3), (1.0, 7), (1.0, 10)],
        "segm/by_size/APs": [(0.5, 3), (0.5, 7), (0.5, 10)],
        "speed": [(2.5, 3), (2.5, 7), (2.5, 10)],
    }
    last = json.loads((tmp_path / "m.json").read_text().splitlines()[-1])
    assert last["iteration"] == 10
    assert last["segm/AP"] == 1.0


@pytest.mark.parametrize(("period", "after", "total", "calls"), [(5, True, 10, 2), (5, False, 10, 1), (0, True, 3, 1)])
def test_eval_hook_number_of_calls(period, after, total, calls):
    count = []
    train([hooks.EvalHook(period, lambda: count.append(1), eval_after_train=after)], total)
    assert len(count) == calls


def test_eval_hook_refuses_what_is_no_number_and_skips_failed_training():
    with pytest.raises(ValueError, match="words"):
        train([hooks.EvalHook(1, lambda: {"a": {"words": "many"}})], 3)
    with pytest.raises(AssertionError, match="dict"):
        train([hooks.EvalHook(1, lambda: [1.0])], 3)

    calls = []

    def fail(trainer):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        train([hooks.CallbackHook(after_step=fail), hooks.EvalHook(0, lambda: calls.append(1))], 3)
    assert calls == []


def test_scheduler_hook_logs_then_steps():
    trainer = make_trainer()
    scheduler = torch.optim.lr_scheduler.StepLR(trainer.optimizer, 2)
    trainer.register_hooks([hooks.LRScheduler(scheduler=scheduler)])
    trainer.train(0, 5)
    assert [v for v, _ in trainer.storage.history("lr").values()] == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001])
    assert trainer.storage.smoothing_hints()["lr"] is False
    state = trainer.state_dict()
    assert state["hooks"]["LRScheduler"]["last_epoch"] == 5

    resumed = make_trainer()
    again = torch.optim.lr_scheduler.StepLR(resumed.optimizer, 2)
    resumed.register_hooks([hooks.LRScheduler(scheduler=again)])
    resumed.load_state_dict(state)
    assert again.last_epoch == 5
    resumed.train(5, 7)
    assert [v for v, _ in resumed.storage.history("lr").values()] == pytest.approx([0.001, 0.0001])


def test_scheduler_hook_multiplies_the_base_rate():
    trainer = make_trainer()
    trainer.register_hooks([hooks.LRScheduler(trainer.optimizer, LinearParamScheduler(1.0, 0.0))])
    trainer.train(0, 4)
    assert [v for v, _ in trainer.storage.history("lr").values()] == pytest.approx([0.1, 0.075, 0.05, 0.025])


def test_scheduler_hook_takes_the_trainers_scheduler():
    trainer = make_trainer()
    trainer.scheduler = torch.optim.lr_scheduler.ExponentialLR(trainer.optimizer, 0.5)
    trainer.register_hooks([hooks.LRScheduler()])
    trainer.train(0, 3)
    assert [v for v, _ in trainer.storage.history("lr").values()] == pytest.approx([0.1, 0.05, 0.025])


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ([(1, 0.1), (3, 0.2), (3, 0.3)], 1),
        ([(1, 0.1), (1, 0.2), (1, 0.2)], 1),
        ([(1, 0.1), (1, 0.2)], 0),
    ],
)
def test_logged_parameter_group(groups, expected):
    params = [{"params": [nn.Parameter(torch.zeros(1)) for _ in range(n)], "lr": lr} for n, lr in groups]
    assert hooks.LRScheduler.get_best_param_group_id(torch.optim.SGD(params, 1.0)) == expected


def test_precise_bn_puts_true_statistics_and_discards_events():
    """Batches (0, 2) and (4, 6) per channel."""

    def data():
        while True:
            yield torch.tensor([[0.0, 0.0], [2.0, 2.0]])
            yield torch.tensor([[4.0, 4.0], [6.0, 6.0]])

    model = Small()
    with EventStorage() as storage:
        hooks.PreciseBN(0, model, data(), 2).update_stats()
    assert torch.allclose(model.bn.running_mean, torch.tensor([3.0, 3.0]))
    # The population variance of 0, 2, 4, 6.
    assert torch.allclose(model.bn.running_var, torch.tensor([5.0, 5.0]))
    assert storage.latest() == {}


def test_precise_bn_period(monkeypatch):
    calls = []
    model = Small()
    trainer = make_trainer(model)
    hook = hooks.PreciseBN(3, model, batches(), 1)
    monkeypatch.setattr(hook, "update_stats", lambda: calls.append(trainer.iter))
    trainer.register_hooks([hook])
    trainer.train(0, 8)
    assert calls == [2, 5, 7]


@pytest.mark.bundled_only
def test_precise_bn_without_bn_does_nothing_in_training():
    class Line(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(2, 1)

        def forward(self, x):
            return {"loss": self.fc(x).square().mean()}

    def never():
        raise AssertionError("no data needed")
        yield

    trainer = make_trainer(Line())
    trainer.register_hooks([hooks.PreciseBN(2, trainer.model, never(), 3)])
    trainer.train(0, 5)
    assert trainer.iter == 5


def test_torch_profiler_writes_traces_of_the_chosen_iterations(tmp_path):
    train(
        [
            hooks.TorchProfiler(
                lambda t: t.iter == 1,
                str(tmp_path / "trace"),
                activities=[torch.profiler.ProfilerActivity.CPU],
                save_tensorboard=False,
            ),
        ],
        3,
    )
    assert [p.name for p in (tmp_path / "trace").iterdir()] == ["profiler-trace-iter1.json"]
    assert "traceEvents" in json.loads((tmp_path / "trace" / "profiler-trace-iter1.json").read_text())


@pytest.mark.bundled_only
def test_autograd_profiler_writes_a_trace(tmp_path):
    with pytest.warns(UserWarning, match="deprecated"):
        hook = hooks.AutogradProfiler(lambda t: t.iter == 0, str(tmp_path), use_cuda=False)
    train([hook], 2)
    assert (tmp_path / "profiler-trace-iter0.json").stat().st_size > 0


def test_memory_stats_without_gpu_are_silent(caplog):
    if torch.cuda.is_available():
        pytest.skip("about machines without a GPU")
    with caplog.at_level(logging.INFO):
        train([hooks.TorchMemoryStats(period=1)], 2)
    assert "mem" not in caplog.text
