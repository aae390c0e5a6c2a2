"""Measured numbers: rows of `results/*.csv`, and the tables of a README that are made from them."""

import csv
import json
import os
import platform
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import detectron2
import torch
from detectron2.config import LazyConfig

RUN_COLUMNS = (
    "config", "dataset", "seed", "box_AP", "box_AP50", "mask_AP", "mask_AP50", "iterations", "minutes",
    "hardware", "torch", "detectron2", "commit",
)  # fmt: skip


def hardware(device: str) -> str:
    """Name of the GPU, or of the CPU and the number of cores that this process may use."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        models = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        name = models[0].partition(":")[2].strip() if models else name
    return f"{name}, {cores} cores"


def commit(folder: Path) -> str:
    """Short hash of the checkout, with `+` behind it when tracked files differ; empty outside of a checkout."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    except OSError:  # no git on this machine
        return ""


def result_row(output_dir: Path, name: str) -> dict[str, str | float | int]:
    """A row of RUN_COLUMNS for a run that was trained and evaluated.

    Args:
        output_dir: of the run; holds `config.yaml`, `metrics.json` and `results.json`.
        name: of the recipe.

    Raises:
        FileNotFoundError: the run is not complete.
    """
    results = json.loads((output_dir / "results.json").read_text())
    cfg = LazyConfig.load(str(output_dir / "config.yaml"))
    steps = [json.loads(line) for line in (output_dir / "metrics.json").read_text().splitlines()]
    seconds = [step["time"] for step in steps if "time" in step]
    iterations = cfg.train.max_iter
    row = {
        "config": name,
        "dataset": cfg.dataloader.test.dataset.names,
        "seed": cfg.train.seed,
        "iterations": iterations,
        "minutes": round(sum(seconds) / len(seconds) * iterations / 60, 1),
        "hardware": hardware("cuda" if cfg.train.device != "cpu" and torch.cuda.is_available() else "cpu"),
        "torch": torch.__version__,
        "detectron2": detectron2.__version__,
        "commit": commit(Path(__file__).resolve().parents[1]),
    }
    for task, label in (("bbox", "box"), ("segm", "mask")):
        for metric in ("AP", "AP50"):
            row[f"{label}_{metric}"] = round(results[task][metric], 2)
    return row


def append_rows(path: Path, rows: Sequence[Mapping[str, object]], columns: Sequence[str]) -> None:
    """Append to a csv file, whose first rows bring the header; None becomes an empty field.

    Args:
        path: the file; folders on the way are made.
        rows: values by column; a column that is left out stays empty.
        columns: of the file, in order.

    Raises:
        ValueError: the file has other columns.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists() or path.stat().st_size == 0
    if not is_new:
        with path.open(newline="") as file:
            found = next(csv.reader(file))
        if found != list(columns):
            raise ValueError(f"{path} has the columns {','.join(found)}, not {','.join(columns)}; name another file")
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerows(rows)


def markdown_table(path: Path, columns: Sequence[str], keep: Callable[[dict[str, str]], bool] = bool) -> str:
    """Some columns of a csv file as a markdown table, of the rows that `keep` says yes to."""
    with path.open(newline="") as file:
        rows = list(filter(keep, csv.DictReader(file)))
    lines = [columns, ["---"] * len(columns), *([row[column] for column in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def replace_between(path: Path, marker: str, text: str) -> None:
    """Put a text between `<!-- marker -->` and `<!-- /marker -->` of a file.

    Raises:
        ValueError: the file has no such markers.
    """
    content = path.read_text(encoding="utf-8")
    head, found, rest = content.partition(f"<!-- {marker} -->")
    _, closed, tail = rest.partition(f"<!-- /{marker} -->")
    if not found or not closed:
        raise ValueError(f"'{path}' has no <!-- {marker} --> ... <!-- /{marker} -->")
    path.write_text(f"{head}{found}\n{text}\n{closed}{tail}", encoding="utf-8")
