import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
import torch

from instseg_d2.reproduction import Recipe, Row, SharedDetector, records
from instseg_d2.reproduction.locks import locked
from instseg_d2.reproduction.runner import Slot, command
from instseg_d2.reproduction.study import StudyError
from instseg_d2.results import RUN_COLUMNS, ResultsError, append_rows

A, B = Row("A", quick="a.py"), Row("B", quick="b.py")


def calls(task):
    return [json.loads(line) for line in (task.folder / "calls.txt").read_text().splitlines()]


def lines_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_runs_are_trained_and_recorded(make_tasks, make_runner, results):
    tasks = make_tasks(A, Row("B", quick=Recipe("b.py", ("model.score=50",))), seeds=(0, 1))
    runner, said = make_runner()
    assert runner.run(tasks) == {}
    rows = lines_of(results)
    assert [(row["row"], row["seed"], row["metrics"]) for row in rows] == [
        ("A", "0", "segm/AP=30"),
        ("A", "1", "segm/AP=31"),
        ("B", "0", "segm/AP=50"),
        ("B", "1", "segm/AP=51"),
    ]
    last = rows[-1]
    assert (last["config"], last["overrides"], last["budget"]) == ("b.py", "model.score=50", "quick")
    assert (last["dataset"], last["iterations"], last["minutes"]) == ("tiny_val", "120", "1.0")
    assert (last["fingerprint"], last["torch"]) == (tasks[-1].fingerprint, torch.__version__)
    assert last["hardware"]
    assert said[0].startswith("[1/4] A, quick, seed 0: begins, log in ")
    assert "segm/AP 30 after" in said[1]
    assert "3 left, about" in said[1]
    assert said[-1].endswith("; last")
    assert {path.name for path in tasks[0].folder.glob("*.pth")} == {"model_final.pth"}


def test_command_resumes_and_names_what_belongs_to_the_run(make_tasks, make_runner, project):
    (task,) = make_tasks(Row("A", quick=Recipe("a.py", ("model.score=1",))), seeds=(4,))
    make_runner()[0].run([task])
    arguments = calls(task)[0][0]
    assert arguments == [
        *("--config-file", str(project / "a.py"), "--resume", "model.score=1", "train.seed=4"),
        *("train.device='cpu'", f"train.output_dir='{task.folder}'"),
    ]
    assert command(["t"], task, Slot("cuda", ("2", "3"), 0))[4:6] == ["--num-gpus", "2"]


def test_weights_of_a_row_are_tested_with_another_config(make_tasks, make_runner, results):
    """Trained once, whether or not the trained row is among the tasks; recorded with the training's facts."""
    tested = Row("A tested otherwise", quick=Recipe("a.py", ("model.score=7",)), weights_of=A)
    first, second = make_tasks(A, tested, seeds=(0, 1))[1::2]
    runner, said = make_runner()
    assert runner.run([first, second]) == {}
    assert said[0].startswith("[1/4] A, quick, seed 0: begins")
    rows = lines_of(results)
    assert [(row["row"], row["seed"], row["metrics"]) for row in rows] == [
        ("A", "0", "segm/AP=30"),
        ("A", "1", "segm/AP=31"),
        ("A tested otherwise", "0", "segm/AP=7"),
        ("A tested otherwise", "1", "segm/AP=8"),
    ]
    assert (rows[3]["iterations"], rows[3]["starts_from"]) == ("120", f"A {second.source.fingerprint}")
    ((arguments, *_),) = calls(second)
    assert "--eval-only" in arguments
    assert "--resume" not in arguments
    assert f"train.init_checkpoint='{second.source.folder / 'model_final.pth'}'" in arguments
    again = make_tasks(A, tested)
    assert make_runner()[0].run(again) == {}
    assert len(calls(again[0])) == 1


def test_weights_that_were_not_trained_are_not_tested(make_tasks, make_runner, results):
    bad = Row("bad", quick=Recipe("a.py", ("model.fails=True",)))
    tasks = make_tasks(bad, Row("tested", quick="a.py", weights_of=bad))
    failed = make_runner()[0].run(tasks[1:])
    assert failed[tasks[1]] == "the training of its weights failed (bad, quick, seed 0)"
    assert not results.exists()


def test_failed_run_stops_no_other_and_shows_its_last_lines(make_tasks, make_runner, results):
    bad = Row("bad", quick=Recipe("a.py", ("model.fails=True",)))
    tasks = make_tasks(bad, A)
    runner, said = make_runner()
    failed = runner.run(tasks)
    assert list(failed) == [tasks[0]]
    for word in ("exit code 1", "loading data", "error: image 7 cannot be read", "study.log"):
        assert word in failed[tasks[0]]
    assert [row["row"] for row in lines_of(results)] == ["A"]
    assert any("FAILED" in line for line in said)
    assert not records.is_done(tasks[0])


def test_run_that_was_killed_is_told_by_its_signal(make_tasks, make_runner, project):
    (project / "trainer.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    tasks = make_tasks(A)
    assert "was ended by SIGKILL" in make_runner()[0].run(tasks)[tasks[0]]


def test_metric_that_is_not_reported_is_nan_and_counts_as_recorded(make_tasks, make_runner, results):
    tasks = make_tasks(A, metrics=("segm/AP", "segm/APx"))
    assert make_runner()[0].run(tasks) == {}
    assert lines_of(results)[0]["metrics"] == "segm/AP=30; segm/APx=nan"
    assert records.counts(records.recorded(results, tasks[0]), tasks[0])


def test_run_that_reports_nothing_watched_is_a_failure_that_lists_what_there_is(make_tasks, make_runner):
    tasks = make_tasks(A, metrics=("segm/APx", "x/y"))
    assert "has no segm/APx, x/y; it has segm/AP, segm/AP50" in make_runner()[0].run(tasks)[tasks[0]]


def test_evaluation_without_results_is_a_failure(make_tasks, make_runner, project):
    (project / "trainer.py").write_text("")
    tasks = make_tasks(A)
    assert "has its data set ground truth?" in make_runner()[0].run(tasks)[tasks[0]]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_full_disk_fails_the_run_with_the_folder_and_goes_on(make_tasks, make_runner, results):
    tasks = make_tasks(A, B)
    tasks[0].folder.mkdir(parents=True)
    (tasks[0].folder / "done.json.partial").symlink_to("/dev/full")
    failed = make_runner()[0].run(tasks)
    assert list(failed) == [tasks[0]]
    assert "No space left" in failed[tasks[0]]
    assert "MiB are free" in failed[tasks[0]]
    assert [row["row"] for row in lines_of(results)] == ["B"]
    assert make_runner()[0].run(tasks[:1]) == {}
    assert len(calls(tasks[0])) == 2
    assert len(lines_of(results)) == 2


def test_finished_run_is_recorded_without_training_it_again(make_tasks, make_runner, results):
    tasks = make_tasks(A)
    make_runner()[0].run(tasks)
    results.unlink()
    wider = make_tasks(A, metrics=("segm/AP", "segm/AP50"))
    runner, said = make_runner()
    assert runner.run(wider) == {}
    assert len(calls(tasks[0])) == 1
    assert "is done already" in said[0]
    assert lines_of(results)[0]["metrics"] == "segm/AP=30; segm/AP50=60"


def test_commits_of_all_attempts_are_kept(make_tasks, make_runner, results):
    (task,) = make_tasks(A)
    task.folder.mkdir(parents=True)
    for commit in ("abc", "abc", "def"):
        records.note_attempt(task, {"commit": commit, "hardware": "H", "torch": "1", "detectron2": "2"})
    make_runner()[0].run([task])
    row = lines_of(results)[0]
    assert row["commit"].startswith("abc / def / ")
    assert row["torch"] == f"1 / {torch.__version__}"


def test_another_config_replaces_the_row_and_has_a_folder_of_its_own(make_tasks, make_runner, results):
    old = make_tasks(A, seeds=(0, 1))
    make_runner()[0].run(old)
    new = make_tasks(Row("A", quick="a.py", overrides=("model.score=33",)))
    assert not records.counts(records.recorded(results, new[0]), new[0])
    make_runner()[0].run(new)
    assert [row["metrics"] for row in lines_of(results)] == ["segm/AP=33", "segm/AP=31"]
    assert records.counts(records.recorded(results, new[0]), new[0])
    assert records.is_done(old[0])
    assert new[0].folder != old[0].folder


def test_recorded_row_counts_only_with_all_metrics_that_are_watched(make_tasks, make_runner, results):
    make_runner()[0].run(make_tasks(A))
    wider = make_tasks(A, metrics=("segm/AP", "segm/AP50"))[0]
    assert not records.counts(records.recorded(results, wider), wider)
    assert records.recorded(results, replace(wider, seed=1)) is None


def test_single_runs_in_the_file_stay(make_tasks, make_runner, results):
    append_rows(results, [{"config": "x", "seed": 0}, {"config": "y", "seed": 0}], RUN_COLUMNS)
    for _ in range(2):
        make_runner()[0].run(make_tasks(A))
    assert [row["config"] for row in lines_of(results)] == ["x", "y", "a.py"]


def test_file_with_other_columns_is_refused(make_tasks, results):
    results.parent.mkdir()
    results.write_text("one,two\n1,2\n")
    with pytest.raises(ResultsError, match="has the columns one,two, not row,budget"):
        records.recorded(results, make_tasks(A)[0])


def test_forgotten_runs_are_made_again(make_tasks, make_runner, results):
    tasks = make_tasks(A, B)
    make_runner()[0].run(tasks)
    records.forget(results, tasks[:1])
    assert [row["row"] for row in lines_of(results)] == ["B"]
    assert not tasks[0].folder.exists()
    make_runner()[0].run(tasks[:1])
    assert len(lines_of(results)) == 2
    with locked(tasks[0].folder), pytest.raises(StudyError, match="is being trained by another process"):
        records.forget(results, tasks)


def test_folder_of_another_study_is_refused(tmp_path):
    records.claim(tmp_path / "runs", tmp_path / "BCNet")
    records.claim(tmp_path / "runs", tmp_path / "BCNet")
    with pytest.raises(StudyError, match="holds the runs of study 'BCNet', not of 'SIM'; name another --output"):
        records.claim(tmp_path / "runs", tmp_path / "SIM")


def test_shared_detector_is_trained_once_and_handed_on_without_its_mask_head(make_tasks, make_runner, project, results):
    weights = {
        "backbone.w": torch.ones(2),
        "roi_heads.mask_head.predictor.w": torch.zeros(2),
        "mask_header": torch.ones(1),
    }
    torch.save({"model": weights, "trainer": {"iteration": 9}}, project / "weights.pth")
    detector = SharedDetector("D", quick="a.py", seed=5)
    rows = [Row(name, quick="b.py", shared_detector=detector) for name in "xy"]
    tasks = make_tasks(*rows, seeds=(0, 1))
    assert make_runner()[0].run(tasks) == {}
    start = tasks[0].start
    assert [call[0][3] for call in calls(start)] == ["train.seed=5"]
    assert all(f"train.init_checkpoint='{start.weights}'" in calls(task)[0][0] for task in tasks)
    assert torch.load(start.weights)["model"].keys() == {"backbone.w", "mask_header"}
    assert {row["starts_from"] for row in lines_of(results)} == {f"D {start.fingerprint}"}
    assert {row["row"] for row in lines_of(results)} == {"x", "y"}

    make_runner()[0].run(make_tasks(*rows, seeds=(2,)))
    assert len(calls(start)) == 1
    changed = make_tasks(Row("x", quick="b.py", shared_detector=replace(detector, overrides=("model.score=1",))))
    make_runner()[0].run(changed)
    assert len(calls(changed[0].start)) == 1


def test_rows_of_a_failed_detector_fail_with_its_name(make_tasks, make_runner):
    broken = SharedDetector("D", quick=Recipe("a.py", ("model.fails=True",)))
    tasks = make_tasks(Row("x", quick="b.py", shared_detector=broken), A)
    failed = make_runner()[0].run(tasks)
    assert failed[tasks[0]] == "its shared detector failed (D, quick, seed 0)"
    assert set(failed) == {tasks[0], tasks[0].start}
    assert not tasks[0].folder.exists()


def test_runs_side_by_side_have_gpus_of_their_own(make_tasks, make_runner, results, monkeypatch):
    monkeypatch.setattr(
        "instseg_d2.reproduction.runner.surroundings",
        lambda device: {
            "hardware": device,
            "torch": "t",
            "detectron2": "d",
            "commit": "c",
        },
    )
    slow = [Row(name, quick=Recipe("a.py", ("model.slow=0.3",))) for name in "wxyz"]
    tasks = make_tasks(*slow)
    slots = [Slot("cuda", ("4", "5"), 0), Slot("cuda", ("6", "7"), 2)]
    assert make_runner(slots)[0].run(tasks) == {}
    used = [calls(task)[0] for task in tasks]
    assert {call[1] for call in used} == {"4,5", "6,7"}
    assert all("--num-gpus" in call[0] and "train.device='cuda'" in call[0] for call in used)
    assert {row["hardware"] for row in lines_of(results)} == {"2 x cuda:0", "2 x cuda:2"}


def test_threads_are_shared_out_unless_the_user_has(make_tasks, make_runner, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    first, second = make_tasks(A, B)
    make_runner([Slot("cpu", threads=3)])[0].run([first])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    make_runner([Slot("cpu", threads=3)])[0].run([second])
    assert (calls(first)[0][2], calls(second)[0][2]) == ("3", "1")


def test_run_that_an_earlier_start_left_behind_is_waited_for(make_tasks, make_runner, results):
    """The parent of the first training is gone, the training is not: its lock outlives the parent's descriptor."""
    (task,) = make_tasks(A)
    task.folder.mkdir(parents=True)
    script = "import sys, time; time.sleep(0.6); open(sys.argv[1], 'w').write('over')"
    with locked(task.folder) as descriptor:
        left = subprocess.Popen([sys.executable, "-c", script, str(task.folder / "orphan")], pass_fds=(descriptor,))
    runner, said = make_runner()
    assert runner.run([task]) == {}
    assert (task.folder / "orphan").read_text() == "over"
    assert sum("waiting for that" in line for line in said) == 1
    assert left.wait() == 0
    assert len(calls(task)) == 1
    assert len(lines_of(results)) == 1


def test_stop_ends_the_runs_under_way_and_starts_no_more(make_tasks, make_runner):
    tasks = make_tasks(*(Row(name, quick=Recipe("a.py", ("model.slow=30",))) for name in "xyz"))
    runner, said = make_runner()

    def stop():
        while not (tasks[0].folder / "calls.txt").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    threading.Thread(target=stop).start()
    with pytest.raises(SystemExit) as caught:
        runner.run(tasks)
    assert caught.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before
    assert not tasks[1].folder.exists()
    assert not any("FAILED" in line for line in said)
    with locked(tasks[0].folder, pytest.fail):
        pass
