"""What is kept of a finished run: its folder's `done.json`, and its row in `results/<project>.csv`."""

import json
import math
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from instseg_d2.files import write_whole
from instseg_d2.results import (
    RUN_COLUMNS,
    format_metrics,
    parse_metrics,
    read_results,
    read_rows,
    run_facts,
    write_rows,
)

from .locks import locked
from .plan import Task
from .study import BUDGETS, StudyError

_ATTEMPT = ("hardware", "torch", "detectron2", "commit")


def claim(output: Path, folder: Path) -> None:
    """Make a folder the root of a study's runs.

    Raises:
        StudyError: it belongs to the study of another project.
    """
    output.mkdir(parents=True, exist_ok=True)
    mark = output / "study.json"
    if not mark.exists():
        write_whole(mark, json.dumps({"project": folder.name}))
    owner = json.loads(mark.read_text())["project"]
    if owner != folder.name:
        raise StudyError(f"{output} holds the runs of study '{owner}', not of '{folder.name}'; name another --output")


def note_attempt(task: Task, about: Mapping[str, str]) -> None:
    """Remember what a training is begun or continued with; a run that was interrupted may have more than one commit."""
    path = task.folder / "attempts.json"
    attempts = json.loads(path.read_text()) if path.exists() else []
    write_whole(path, json.dumps([*attempts, dict(about)], indent=1))


def is_done(task: Task) -> bool:
    """Whether the run is trained and evaluated."""
    return (task.folder / "done.json").is_file()


def finish(task: Task) -> None:
    """Mark a run whose training and evaluation have ended well; what is not needed to count it is deleted.

    Raises:
        StudyError: not one of the watched metrics was evaluated.
        FileNotFoundError: the run left no `metrics.json`.
    """
    if task.is_detector:
        _store_detector(task)
    else:
        metrics_of(task)
    if task.source:
        # What a test has behind it is the training of its weights.
        facts = json.loads((task.source.folder / "done.json").read_text())
    else:
        facts = run_facts(task.folder, task.cfg)
    attempts = json.loads((task.folder / "attempts.json").read_text())
    for key in _ATTEMPT:
        facts[key] = " / ".join(dict.fromkeys(attempt[key] for attempt in attempts))
    write_whole(task.folder / "done.json", json.dumps(facts, indent=1))
    for checkpoint in task.folder.glob("model_[0-9]*.pth"):
        checkpoint.unlink()


def _store_detector(task: Task) -> None:
    name = "model_ema.pth" if task.cfg.train.ema.enabled else "model_final.pth"
    weights = torch.load(task.folder / name, map_location="cpu", weights_only=True)["model"]
    kept = {key: value for key, value in weights.items() if not set(task.leave_out) & set(key.split("."))}
    if not kept:
        raise StudyError(f"shared detector '{task.name}': leave_out leaves nothing of {task.folder / name}")
    partial = task.weights.with_suffix(".partial")
    torch.save({"model": kept}, partial)
    partial.replace(task.weights)


def metrics_of(task: Task) -> dict[str, float]:
    """The watched metrics of an evaluated run, NaN for one that its evaluation does not report.

    Raises:
        StudyError: it reports none of them; the message lists what there is.
    """
    path = task.folder / "results.json"
    if not path.is_file():
        raise StudyError(f"the evaluation left no {path}; has its data set ground truth?")
    found = read_results(path)
    if not set(task.metrics) & found.keys():
        raise StudyError(f"{path} has no {', '.join(task.metrics)}; it has {', '.join(found)}")
    return {metric: found.get(metric, math.nan) for metric in task.metrics}


def row_of(task: Task) -> dict[str, object]:
    """The row of RUN_COLUMNS of a run that is done."""
    start = task.start or task.source
    return {
        **json.loads((task.folder / "done.json").read_text()),
        "row": task.name,
        "budget": task.budget,
        "seed": task.seed,
        "metrics": format_metrics(metrics_of(task)),
        "config": task.recipe.config,
        "overrides": " ".join(task.recipe.overrides),
        "starts_from": f"{start.name} {start.fingerprint}" if start else "",
        "fingerprint": task.fingerprint,
    }


def forget(path: Path, tasks: Iterable[Task]) -> None:
    """Take the runs of these tasks out of a csv file, and delete their folders.

    Raises:
        StudyError: one of them is being trained.
    """
    tasks = list(tasks)
    _update(path, {_key_of(task) for task in tasks}, [])
    for task in tasks:
        if task.folder.is_dir():
            with locked(task.folder, lambda task=task: _refuse(task)):
                shutil.rmtree(task.folder)


def _refuse(task: Task) -> None:
    raise StudyError(f"{task} is being trained by another process, in {task.folder}; end that one, or leave out --redo")


def record(path: Path, task: Task) -> None:
    """Put the row of a done run into a csv file, in place of an earlier one of that row, budget and seed."""
    _update(path, {_key_of(task)}, [row_of(task)])


def recorded(path: Path, task: Task) -> dict[str, str] | None:
    """The row of that row, budget and seed in a csv file, of whatever config."""
    return next((row for row in read_rows(path, RUN_COLUMNS) if _key(row) == _key_of(task)), None)


def counts(row: Mapping[str, str], task: Task) -> bool:
    """Whether a row of a csv file is a result of this very task, with every metric that is watched."""
    return row["fingerprint"] == task.fingerprint and parse_metrics(row["metrics"]).keys() >= set(task.metrics)


def _key(row: Mapping[str, object]) -> tuple[str, str, str]:
    return row["row"], row["budget"], str(row["seed"])


def _key_of(task: Task) -> tuple[str, str, str]:
    return task.name, task.budget, str(task.seed)


def _update(path: Path, drop: set[tuple[str, str, str]], add: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Other studies of the project, on other machines or in other windows, write here too.
    with locked(path.parent):
        rows = [row for row in read_rows(path, RUN_COLUMNS) if not row["row"] or _key(row) not in drop] + add
        # In this order whichever run ends first; single runs come first and stay as they were.
        rows.sort(key=lambda row: (*_order(row), int(row["seed"]) if row["row"] else 0))
        if rows or path.exists():
            write_rows(path, rows, RUN_COLUMNS)


def _order(row: Mapping[str, object]) -> tuple[int, str]:
    return (BUDGETS.index(row["budget"]) if row["budget"] in BUDGETS else -1), str(row["row"])
