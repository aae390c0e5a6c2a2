import csv
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """The tool as a module, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location("reproduce", ROOT / "tools" / "reproduce.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def study(tiny_recipe, tmp_path):
    """A project of one's own: two rows of the tiny recipe, one of them from a shared detector."""
    folder = tmp_path / "Tiny"
    folder.mkdir()
    (folder / "ablations.py").write_text(
        f"""
from instseg_d2.reproduction import Comparison, Recipe, Row, SharedDetector, Study, Table

_tiny = {str(tiny_recipe)!r}
_short = ("train.report=False",)
_detector = SharedDetector("detector", quick=_tiny, overrides=(*_short, "train.max_iter=3"))
_plain = Row("plain", quick=_tiny, overrides=_short, paper={{"segm/AP": 30.5}})
_long = Row("long", quick=Recipe(_tiny, ("train.max_iter=60",)), overrides=_short, shared_detector=_detector)
study = Study(
    Table("Table 7", (_plain, _long), ("segm/AP", "bbox/AP50"), comparisons=(Comparison("long", "plain", "segm/AP"),))
)
"""
    )
    (folder / "README.md").write_text("# Tiny\n\n<!-- results -->\n<!-- /results -->\n")
    return folder


def start(folder, *arguments):
    """The tool in a session of its own, which can be killed with all that it started."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, str(ROOT / "tools" / "reproduce.py"), "--project", str(folder), *arguments]
    return subprocess.Popen(
        command, cwd=folder.parent, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip


def wait_for(path, process):
    while not (found := list(path[0].glob(path[1]))):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    return found[0]


def recorded(folder):
    with (folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_help_explains(run_tool):
    done = run_tool("reproduce.py", "--help")
    assert done.returncode == 0
    for word in ("--seeds", "--redo", "going on after an interruption", "shared detectors", "examples:"):
        assert word in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--project", "Baseline"], ["project 'Baseline' is not known", "nearest: Baselines"]),
        (["--project", "Baselines", "--rows", "Mask RCNN"], ["row 'Mask RCNN' is not known", "nearest: Mask R-CNN"]),
        (["--project", "data"], ["project 'data' has no ablations.py", "Baselines"]),
        (["--project", "Tiny", "--seeds", "0"], ["'0' is not a number from 1"]),
        (["--project", "Tiny", "--seed-list", "1,x"], ["'1,x' is no list of numbers"]),
        (["--project", "Tiny", "--seeds", "2", "--seed-list", "1"], ["not allowed with"]),
        (["--project", "Tiny", "--output", "taken"], ["holds the runs of study 'Other'", "--output"]),
        (["--project", "Tiny", "--results", "other.csv"], ["other.csv has the columns a,b, not row,budget"]),
        (["--project", "Tiny", "--device", "cuda"], ["torch finds no CUDA device"]),
    ],
)
def test_mistakes_are_one_message(tool, study, tmp_path, capsys, arguments, words):
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "study.json").write_text(json.dumps({"project": "Other"}))
    (tmp_path / "other.csv").write_text("a,b\n")
    with pytest.raises(SystemExit) as caught:
        tool.main(arguments)
    told = caught.value.code if isinstance(caught.value.code, str) else capsys.readouterr().err
    assert all(word in told for word in words), told
    assert not (tmp_path / "output").exists()


def test_readme_without_markers_is_told_before_anything_is_trained(tool, study, tmp_path):
    (study / "README.md").write_text("# Tiny\n")
    with pytest.raises(SystemExit, match="has no <!-- results -->"):
        tool.main(["--project", "Tiny"])
    assert not (tmp_path / "output").exists()


def test_list_and_dry_run_train_nothing(tool, study, tmp_path, capsys):
    assert tool.main(["--project", "Tiny", "--list"]) == 0
    listed = capsys.readouterr().out
    assert "watched in quick: segm/AP, bbox/AP50" in listed
    assert "starts from shared detector detector; seeds recorded: none" in listed
    assert tool.main(["--project", "Tiny", "--rows", "long", "--seed-list", "4,2", "--dry-run"]) == 0
    planned = capsys.readouterr().out
    assert [line.partition(": ")[0] for line in planned.splitlines() if "train_net.py" in line] == [
        "detector, quick, seed 0",
        "long, quick, seed 4",
        "long, quick, seed 2",
    ]
    assert not (tmp_path / "output").exists()


def test_failed_rows_are_reported_at_the_end(tool, study, tmp_path, capsys, monkeypatch):
    (tmp_path / "broken.py").write_text("import sys\nsys.exit('error: image 7 cannot be read')\n")
    monkeypatch.setattr(tool, "TRAINER", (sys.executable, str(tmp_path / "broken.py")))
    assert tool.main(["--project", "Tiny", "--seeds", "1"]) == 1
    told = capsys.readouterr().err
    for name in ("plain, quick, seed 0: the training left", "detector, quick, seed 0: the training left"):
        assert f"FAILED {name}" in told
    assert "FAILED long, quick, seed 0: its shared detector failed" in told
    assert "error: image 7 cannot be read" in told
    assert "| plain | 0 | not run |" in (study / "README.md").read_text()


def test_slots_of_a_machine_with_gpus(tool, monkeypatch):
    monkeypatch.setattr(tool, "resolve_device", lambda name: "cuda")
    monkeypatch.setattr(tool.torch.cuda, "device_count", lambda: 5)

    def slots(*arguments):
        return [slot.gpus for slot in tool.make_slots(tool.parse_arguments(["--project", "x", *arguments]))]

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert slots() == [("0",)]
    assert slots("--gpus", "5", "--gpus-per-run", "2") == [("0", "1"), ("2", "3")]
    assert slots("--gpus-per-run", "4") == [("0", "1", "2", "3")]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7,3,2,5,6")
    assert slots("--gpus", "2") == [("7",), ("3",)]
    with pytest.raises(tool.StudyError, match="6 GPUs are asked for .* 5 are there"):
        slots("--gpus", "6")


@pytest.mark.slow
def test_study_goes_on_after_a_kill_and_counts_nothing_twice(study, run_tool, tool, tmp_path, capsys):
    arguments = ("--project", "Tiny", "--rows", "long", "--seeds", "1")
    first = start(study, *arguments[2:])
    runs = tmp_path / "output" / "reproduce" / "Tiny" / "quick"
    checkpoint = wait_for((runs, "long-*/seed0/last_checkpoint"), first)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    assert not (study / "results.csv").exists()
    assert not (checkpoint.parent / "done.json").exists()

    second = run_tool("reproduce.py", *arguments)
    assert second.returncode == 0, second.stdout + second.stderr
    assert "[1/1] long, quick, seed 0: goes on" in second.stdout
    assert [(row["row"], row["seed"]) for row in recorded(study)] == [("long", "0")]
    metrics = [json.loads(line) for line in (checkpoint.parent / "metrics.json").read_text().splitlines()]
    iterations = [line["iteration"] for line in metrics if "total_loss" in line]
    assert iterations.count(0) == 1
    assert max(iterations) == 59
    detector = torch.load(next(runs.glob("shared-detector-*/seed0/detector.pth")))["model"]
    assert detector
    assert not any("mask_head" in name for name in detector)
    assert "| plain | 0 | not run | 30.5 |" in (study / "README.md").read_text()

    before = (study / "results.csv").read_bytes()
    assert tool.main(list(arguments)) == 0
    assert "long, quick, seed 0: is in" in capsys.readouterr().out
    assert (study / "results.csv").read_bytes() == before
