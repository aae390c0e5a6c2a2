"""Training loop: order of hooks, iteration counts, stored losses, states, mixed precision."""

import logging
import math

import pytest
import torch
from detectron2.engine import AMPTrainer, HookBase, SimpleTrainer, TrainerBase
from torch import nn


class OneWeight(nn.Module):
    """loss_fit = (w - target)^2, loss_size = 0.5 w; the batch is the target."""

    def __init__(self, start: float = 1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(start))

    def forward(self, target):
        return {"loss_fit": (self.weight - target) ** 2, "loss_size": 0.5 * self.weight}


def endless(value: float = 3.0):
    while True:
        yield torch.tensor(value)


def make_trainer(cls=SimpleTrainer, model=None, data=None, lr=0.1, **kwargs):
    model = OneWeight() if model is None else model
    optimizer = torch.optim.SGD(model.parameters(), lr)
    return cls(model, endless() if data is None else data, optimizer, **kwargs)


class Recorder(HookBase):
    def __init__(self, name, events):
        self.name, self.events = name, events

    def _note(self, point):
        self.events.append((point, self.name, self.trainer.iter))

    def before_train(self):
        self._note("before_train")

    def before_step(self):
        self._note("before_step")

    def after_backward(self):
        self._note("after_backward")

    def after_step(self):
        self._note("after_step")

    def after_train(self):
        self._note("after_train")


def test_hooks_run_in_order_around_each_step():
    events = []
    trainer = make_trainer()
    trainer.register_hooks([Recorder("a", events), None, Recorder("b", events)])
    trainer.train(5, 7)
    points = ["before_step", "after_backward", "after_step"]
    expected = [("before_train", 5)] + [(p, i) for i in (5, 6) for p in points] + [("after_train", 7)]
    assert events == [(point, name, i) for point, i in expected for name in "ab"]
    assert (trainer.start_iter, trainer.iter, trainer.max_iter) == (5, 7, 7)


def test_after_train_runs_when_a_step_fails_and_iter_tells():
    class Failing(TrainerBase):
        def run_step(self):
            if self.iter == 2:
                raise RuntimeError("broken batch")

    events = []
    trainer = Failing()
    trainer.register_hooks([Recorder("a", events)])
    with pytest.raises(RuntimeError, match="broken batch"):
        trainer.train(0, 10)
    assert events[-1] == ("after_train", "a", 2)


def test_only_hooks_can_be_registered():
    with pytest.raises(AssertionError):
        TrainerBase().register_hooks([object()])


def test_sgd_steps_and_stored_losses_by_hand():
    """w0 = 1, gradient 2 (w - 3) + 0.5, lr 0.1: w1 = 1 + 0.35 = 1.35, w2 = 1.35 + 0.28 = 1.63."""
    trainer = make_trainer()
    trainer.train(0, 2)
    assert trainer.model.weight.item() == pytest.approx(1.63, abs=1e-6)
    stored = {name: history.values() for name, history in trainer.storage.histories().items()}
    assert set(stored) == {"data_time", "rank_data_time", "total_loss", "loss_fit", "loss_size"}
    assert [i for _, i in stored["loss_fit"]] == [0, 1]
    assert [v for v, _ in stored["loss_fit"]] == pytest.approx([4.0, 1.65**2], abs=1e-6)
    assert [v for v, _ in stored["total_loss"]] == pytest.approx([4.5, 1.65**2 + 0.675], abs=1e-6)


def test_single_tensor_loss_is_stored_once_as_total_loss():
    class Scalar(OneWeight):
        def forward(self, target):
            return (self.weight - target) ** 2

    trainer = make_trainer(model=Scalar())
    trainer.train(0, 1)
    assert trainer.storage.history("total_loss").values() == [(4.0, 0)]
    assert set(trainer.storage.histories()) == {"data_time", "rank_data_time", "total_loss"}


def test_losses_of_different_dtypes_keep_their_precision():
    class Mixed(OneWeight):
        def forward(self, target):
            return {"loss_a": self.weight * 0.1, "loss_b": (self.weight.double() * 0.1)}

    trainer = make_trainer(model=Mixed())
    trainer.train(0, 1)
    assert trainer.storage.history("loss_b").latest() == 0.1
    assert trainer.storage.history("loss_a").latest() == float(torch.tensor(0.1))


def test_prefix_goes_to_the_total_only():
    from detectron2.utils.events import EventStorage

    with EventStorage(0) as storage:
        losses = {"x": torch.tensor(1.0), "y": torch.tensor(2.0)}
        SimpleTrainer.write_metrics(losses, 0.25, 4, prefix="val_")
    assert storage.latest() == {
        "rank_data_time": (0.25, 4),
        "data_time": (0.25, 4),
        "val_total_loss": (3.0, 4),
        "x": (1.0, 4),
        "y": (2.0, 4),
    }


@pytest.mark.parametrize("asynchronous", [False, True])
def test_gather_period_counts_from_iteration_zero(asynchronous):
    trainer = make_trainer(gather_metric_period=3, async_write_metrics=asynchronous)
    trainer.train(0, 8)
    assert [i for _, i in trainer.storage.history("total_loss").values()] == [2, 5]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_loss_that_is_not_finite_stops_before_the_update(bad):
    trainer = make_trainer(data=endless(bad))
    with pytest.raises(FloatingPointError, match=r"(?s)loss_fit.*(nan|inf)"):
        trainer.train(0, 3)
    assert trainer.iter == 0
    assert trainer.model.weight.item() == 1.0


@pytest.mark.bundled_only
def test_loss_that_is_not_finite_is_raised_from_the_thread_too():
    trainer = make_trainer(data=endless(math.nan), async_write_metrics=True)
    with pytest.raises(FloatingPointError, match="loss_fit"):
        trainer.train(0, 1)


@pytest.mark.bundled_only
def test_asynchronous_metrics_are_there_before_the_last_hook_and_for_a_second_training():
    seen = []

    class Last(HookBase):
        def after_train(self):
            seen.append(len(self.trainer.storage.history("total_loss").values()))

    trainer = make_trainer(async_write_metrics=True)
    trainer.register_hooks([Last()])
    trainer.train(0, 20)
    trainer.train(0, 5)
    assert seen == [20, 5]


@pytest.mark.parametrize("early", [False, True])
def test_zero_grad_before_forward_or_before_backward(early):
    calls = []

    class Watching(OneWeight):
        def forward(self, target):
            calls.append("forward")
            return super().forward(target)

    trainer = make_trainer(model=Watching(), zero_grad_before_forward=early)
    original = trainer.optimizer.zero_grad
    trainer.optimizer.zero_grad = lambda *a, **k: (calls.append("zero"), original(*a, **k))
    trainer.train(0, 1)
    assert calls == (["zero", "forward"] if early else ["forward", "zero"])


def test_model_in_eval_mode_is_refused():
    trainer = make_trainer()
    trainer.model.eval()
    with pytest.raises(AssertionError, match="eval"):
        trainer.train(0, 1)


def test_reset_data_loader():
    trainer = make_trainer(lr=0.0)
    trainer.train(0, 1)
    trainer.reset_data_loader(lambda: endless(11.0))
    trainer.train(0, 1)
    assert trainer.storage.history("loss_fit").latest() == 100.0


class Counting(HookBase):
    def __init__(self, count=0):
        self.count = count

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


def test_state_holds_iteration_optimizer_and_first_stateful_hook_of_a_class():
    trainer = make_trainer()
    trainer.register_hooks([HookBase(), Counting(4), Counting(9)])
    trainer.train(0, 3)
    state = trainer.state_dict()
    assert state["iteration"] == 3
    assert state["hooks"] == {"Counting": {"count": 4}}
    assert state["optimizer"]["param_groups"][0]["lr"] == 0.1

    other = make_trainer(lr=7.0)
    hook = Counting()
    other.register_hooks([hook])
    other.load_state_dict(state)
    assert (other.iter, hook.count, other.optimizer.param_groups[0]["lr"]) == (3, 4, 0.1)


def test_state_without_stateful_hooks_has_no_hooks_entry():
    trainer = make_trainer()
    trainer.register_hooks([HookBase()])
    assert set(trainer.state_dict()) == {"iteration", "optimizer"}


def test_state_of_an_unknown_hook_is_skipped_with_a_warning(caplog):
    trainer = make_trainer()
    state = {**trainer.state_dict(), "iteration": 8, "hooks": {"Gone": {"x": 1}}}
    with caplog.at_level(logging.WARNING, logger="detectron2.engine.train_loop"):
        trainer.load_state_dict(state)
    assert trainer.iter == 8
    assert "Gone" in caplog.text


@pytest.mark.bundled_only
def test_mixed_precision_on_cpu_trains_in_bfloat16():
    dtypes = []

    class Line(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(2, 1, bias=False)
            nn.init.ones_(self.fc.weight)

        def forward(self, x):
            y = self.fc(x)
            dtypes.append(y.dtype)
            return {"loss": y.float().sum()}

    def data():
        while True:
            yield torch.tensor([[1.0, 2.0]])

    trainer = make_trainer(AMPTrainer, model=Line(), data=data(), log_grad_scaler=True)
    trainer.train(0, 3)
    assert dtypes == [torch.bfloat16] * 3
    # The gradient is (1, 2) in every step, so three steps of 0.1 give 1 - 0.3 and 1 - 0.6.
    assert torch.allclose(trainer.model.fc.weight, torch.tensor([[0.7, 0.4]]), atol=1e-6)
    assert trainer.storage.history("[metric]grad_scaler").latest() == trainer.grad_scaler.get_scale() == 65536.0

    other = make_trainer(AMPTrainer, model=Line(), data=data())
    state = trainer.state_dict()
    state["grad_scaler"]["scale"] = 32.0
    other.load_state_dict(state)
    assert other.grad_scaler.get_scale() == 32.0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_mixed_precision_on_gpu_computes_in_float16():
    class Line(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 1).cuda()

        def forward(self, x):
            y = self.fc(x)
            assert y.dtype == torch.float16
            return {"loss": y.float().square().mean()}

    def data():
        while True:
            yield torch.ones(3, 4, device="cuda")

    trainer = make_trainer(AMPTrainer, model=Line(), data=data(), lr=0.01)
    trainer.train(0, 10)
    losses = [value for value, _ in trainer.storage.history("total_loss").values()]
    assert losses[-1] < losses[0]


def test_mixed_precision_refuses_data_parallel():
    with pytest.raises(AssertionError):
        make_trainer(AMPTrainer, model=nn.DataParallel(OneWeight()))


@pytest.mark.bundled_only
def test_writers_read_while_a_thread_stores():
    """The loss names appear in the storage from the thread, while the hook iterates over it."""

    class ManyLosses(OneWeight):
        def forward(self, target):
            step = len(seen)
            return {f"loss_{step}_{k}": self.weight * k for k in range(10)}

    seen = []

    class Reading(HookBase):
        def after_step(self):
            for _ in range(4):
                latest = self.trainer.storage.latest_with_smoothing_hint(2)
            seen.append(len(latest))

    trainer = make_trainer(model=ManyLosses(), async_write_metrics=True, lr=0.0)
    trainer.register_hooks([Reading()])
    trainer.train(0, 40)
    assert len(trainer.storage.latest()) == 40 * 10 + 3
