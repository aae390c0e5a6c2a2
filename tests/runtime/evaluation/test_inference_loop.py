"""The evaluation loop, combined evaluators, and the small functions on results."""

import logging
from types import SimpleNamespace

import pytest
import torch
from detectron2.evaluation import (
    DatasetEvaluator,
    DatasetEvaluators,
    inference_context,
    inference_on_dataset,
    print_csv_format,
    verify_results,
)
from detectron2.evaluation.testing import flatten_results_dict
from torch import nn


class Summing(DatasetEvaluator):
    def __init__(self, task="sum"):
        self.task = task
        self.total = None

    def reset(self):
        self.total = 0

    def process(self, inputs, outputs):
        self.total += sum(outputs)

    def evaluate(self):
        return {self.task: {"value": self.total}}


class Doubler(nn.Module):
    def forward(self, inputs):
        assert not self.training
        assert not torch.is_grad_enabled()
        return [2 * i for i in inputs]


@pytest.fixture
def messages(monkeypatch):
    kept = []
    for name in ("detectron2.evaluation.evaluator", "detectron2.evaluation.testing"):
        monkeypatch.setattr(logging.getLogger(name), "handle", lambda record: kept.append(record.getMessage()))
        monkeypatch.setattr(logging.getLogger(name), "level", logging.INFO)
        logging.getLogger(name).manager._clear_cache()
    return kept


def test_every_batch_is_evaluated_in_eval_mode():
    model = Doubler().train()
    assert inference_on_dataset(model, [[1, 2], [3], [4]], Summing()) == {"sum": {"value": 20}}
    assert model.training
    assert torch.is_grad_enabled()


def test_list_of_evaluators_and_none():
    result = inference_on_dataset(Doubler(), [[1], [2]], [Summing("a"), Summing("b")])
    assert result == {"a": {"value": 6}, "b": {"value": 6}}
    assert inference_on_dataset(Doubler(), [[1]], None) == {}


def test_evaluator_without_result():
    class Silent(DatasetEvaluator):
        pass

    assert inference_on_dataset(lambda inputs: inputs, [[1]], Silent()) == {}


def test_callbacks_come_in_order():
    events = []
    names = ("on_start", "before_inference", "after_inference", "on_end")
    callbacks = {name: (lambda name=name: events.append(name)) for name in names}
    inference_on_dataset(Doubler(), [[1], [2]], None, callbacks=callbacks)
    assert events == [names[0], names[1], names[2], names[1], names[2], names[3]]


def test_progress_lines(messages, monkeypatch):
    # the real one would keep silent for seconds after the line of another test
    monkeypatch.setattr(
        "detectron2.evaluation.evaluator.log_every_n_seconds", lambda level, line, n: messages.append(line)
    )
    inference_on_dataset(Doubler(), [[i] for i in range(12)], Summing())
    assert messages[0] == "Start inference on 12 batches"
    progress = [m for m in messages if m.startswith("Inference done ")]
    assert [m.split()[2] for m in progress] == ["11/12.", "12/12."]
    assert progress[1].endswith("ETA=0:00:00")
    assert messages[-2].startswith("Total inference time: 0:00:0")
    assert messages[-2].endswith(" s / iter per device, on 1 devices)")
    assert messages[-1].startswith("Total inference pure compute time: 0:00:00 (0.0000")


@pytest.mark.bundled_only
def test_mode_is_restored_after_an_error():
    model = Doubler().train()
    with pytest.raises(KeyError), inference_context(model):
        raise KeyError
    assert model.training


def test_same_task_twice_is_an_error():
    both = DatasetEvaluators([Summing(), Summing()])
    both.reset()
    with pytest.raises(AssertionError, match="sum"):
        both.evaluate()


def test_csv_lines(messages):
    print_csv_format({"bbox": {"AP": 12.34567, "AP50": 20.0, "AP-person": 3.0}, "speed": 4})
    assert messages == [
        "copypaste: Task: bbox",
        "copypaste: AP,AP50",
        "copypaste: 12.3457,20.0000",
        "copypaste: speed=4",
    ]


@pytest.mark.parametrize(
    ("expectation", "holds"),
    [
        (["bbox", "AP", 40.0, 0.5], True),
        (["bbox", "AP", 41.0, 0.5], False),
        (["bbox", "AP75", 1.0, 0.5], False),
        (["bbox", "APs", 1.0, 0.5], False),
    ],
)
def test_expected_results(expectation, holds):
    results = {"bbox": {"AP": 40.4, "APs": float("nan")}}
    cfg = SimpleNamespace(TEST=SimpleNamespace(EXPECTED_RESULTS=[expectation]))
    if holds:
        assert verify_results(cfg, results) is True
    else:
        with pytest.raises(SystemExit) as stopped:
            verify_results(cfg, results)
        assert stopped.value.code == 1


def test_flat_results():
    assert flatten_results_dict({"a": {"b": {"c": 1}, "d": 2}, "e": 3}) == {"a/b/c": 1, "a/d": 2, "e": 3}
