"""EventStorage and its writers."""

import json
import logging

import numpy as np
import pytest
import torch
from detectron2.utils.events import (
    CommonMetricPrinter,
    EventStorage,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
    has_event_storage,
)


def test_storages_nest():
    assert not has_event_storage()
    with pytest.raises(AssertionError):
        get_event_storage()
    with EventStorage() as outer:
        with EventStorage(5) as inner:
            assert get_event_storage() is inner
            assert inner.iter == inner.iteration == 5
        assert get_event_storage() is outer
    assert not has_event_storage()


def test_scalars_are_smoothed_by_iterations_not_by_count():
    with EventStorage() as storage:
        for i in range(10):
            storage.iter = 3 * i
            storage.put_scalar("noisy", 10.0**i)
            storage.put_scalars(lr=i, smoothing_hint=False)
    # Iterations 18, 21, 24, 27 lie within 10 of the last one; numpy's median of an even count is the mean of two.
    assert storage.count_samples("noisy", 10) == 4
    assert storage.latest_with_smoothing_hint(10)["noisy"] == ((10.0**7 + 10.0**8) / 2, 27)
    assert storage.latest_with_smoothing_hint(10)["lr"] == (9.0, 27)
    assert storage.latest()["noisy"] == (10.0**9, 27)
    assert storage.smoothing_hints() == {"noisy": True, "lr": False}
    assert storage.history("lr").values()[0] == (0.0, 0)
    with pytest.raises(KeyError):
        storage.history("absent")


def test_a_hint_must_not_change():
    storage = EventStorage()
    storage.put_scalar("x", 1)
    with pytest.raises(AssertionError, match="x"):
        storage.put_scalar("x", 1, smoothing_hint=False)


def test_name_scope_and_explicit_iteration():
    storage = EventStorage()
    with storage.name_scope("eval/"):
        storage.put_scalar("x", torch.tensor([2.0]), cur_iter=7)
    storage.put_scalar("y", 1)
    storage.step()
    storage.put_scalar("y", 2)
    assert storage.latest() == {"eval/x": (2.0, 7), "y": (2.0, 1)}


@pytest.mark.bundled_only
def test_a_failure_leaves_the_name_scope():
    storage = EventStorage()
    with pytest.raises(RuntimeError), storage.name_scope("s"):
        raise RuntimeError
    storage.put_scalar("x", 1)
    assert list(storage.latest()) == ["x"]


def test_json_lines(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text('{"iteration": -5}\n')
    with EventStorage() as storage:
        writer = JSONWriter(str(path), window_size=2)
        for x in (1, 2, 4):
            storage.put_scalar("x", x)
            storage.step()
        storage.put_scalar("eval", 9, cur_iter=1)
        writer.write()
        writer.write()
        storage.put_scalar("x", 5)
        writer.write()
        writer.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [
        {"iteration": -5},
        {"iteration": 2, "x": 3.0},
        {"iteration": 1, "eval": 9.0},
        {"iteration": 3, "x": 4.5},
    ]


class Recorder:
    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        return lambda *args, **kwargs: self.calls.append((name, args, kwargs))


def test_tensorboard_writer_takes_all_and_clears(tmp_path):
    with EventStorage(3) as storage:
        writer = TensorboardXWriter(str(tmp_path))
        assert not list(tmp_path.iterdir())
        writer.__dict__["_writer"] = recorder = Recorder()
        storage.put_scalar("x", 1.5)
        image = np.zeros((3, 2, 2))
        storage.put_image("img", image)
        storage.put_histogram("h", torch.tensor([0.0, 1.0, 1.0, 2.0]), bins=2)
        writer.write()
        writer.write()
    scalar, picture, (name, _, histogram) = recorder.calls
    assert scalar == ("add_scalar", ("x", 1.5, 3), {})
    assert picture == ("add_image", ("img", image, 3), {})
    assert name == "add_histogram_raw"
    assert histogram["bucket_counts"] == [1.0, 3.0]
    assert histogram["bucket_limits"] == [1.0, 2.0]
    stats = {key: histogram[key] for key in ("tag", "min", "max", "num", "sum", "sum_squares", "global_step")}
    assert stats == {"tag": "h", "min": 0.0, "max": 2.0, "num": 4, "sum": 4.0, "sum_squares": 6.0, "global_step": 3}


def test_tensorboard_files(tmp_path):
    with EventStorage() as storage:
        writer = TensorboardXWriter(str(tmp_path))
        storage.put_scalar("x", 1)
        writer.write()
        writer.close()
    assert any("tfevents" in p.name for p in tmp_path.iterdir())


@pytest.fixture
def printed():
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger("detectron2.utils.events")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield lines
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_printer_line(printed):
    with EventStorage() as storage:
        for i in range(3):
            storage.iter = i
            storage.put_scalars(total_loss=i + 1, time=2.0, data_time=0.5, lr=0.02, other=8)
            storage.put_scalar("[metric]ap", 0.25)
        CommonMetricPrinter(max_iter=100).write()
    (line,) = printed
    # 97 iterations of 2 seconds are left.
    for part in (
        "eta: 0:03:14  iter: 2  ",
        "total_loss: 2  ",
        "[metric]ap: 0.25  ",
        "  time: 2.0000  last_time: 2.0000  ",
        "data_time: 0.5000  last_data_time: 0.5000",
        "lr: 0.02",
    ):
        assert part in line
    assert "other" not in line
    assert storage.latest()["eta_seconds"] == (194.0, 2)


def test_printer_without_times_or_end(printed):
    with EventStorage(4) as storage:
        CommonMetricPrinter().write()
        storage.put_scalar("loss", 1)
        estimating = CommonMetricPrinter(max_iter=10)
        estimating.write()
        storage.iter = 6
        estimating.write()
        storage.iter = 10
        estimating.write()
    assert len(printed) == 3
    assert ["eta" in line for line in printed] == [False, False, True]
    assert "lr: N/A" in printed[0]


def test_base_writer():
    EventWriter().close()
    with pytest.raises(NotImplementedError):
        EventWriter().write()
