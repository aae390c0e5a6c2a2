"""Measured numbers: rows of `results/*.csv`, and the tables of a README that are made from them."""

import csv
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path

import detectron2
import torch
from detectron2.config import LazyConfig

COLUMNS = (
    "config", "dataset", "seed", "box_AP", "box_AP50", "mask_AP", "mask_AP50", "iterations", "minutes",
    "hardware", "torch", "detectron2", "commit",
)  # fmt: skip


def hardware() -> str:
    """What the numbers were measured on: the GPU's name, or the processor and the cores torch uses."""
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()}x {torch.cuda.get_device_name()}"
    names = [
        line.partition(":")[2].strip()
        for line in (Path("/proc/cpuinfo").read_text().splitlines() if os.path.exists("/proc/cpuinfo") else [])
        if line.startswith("model name")
    ]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def commit() -> str:
    """Short hash of the clone's commit, with `+` if tracked files differ from it; `unknown` outside a clone."""
    root = Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True).stdout.strip()

    name = git("rev-parse", "--short", "HEAD")
    return f"{name}{'+' if git('status', '--porcelain', '--untracked-files=no') else ''}" if name else "unknown"


def result_row(output_dir: Path, name: str) -> dict[str, str | float | int]:
    """A row of COLUMNS for a run that was trained and evaluated.

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
        "hardware": hardware(),
        "torch": torch.__version__,
        "detectron2": detectron2.__version__,
        "commit": commit(),
    }
    for task, label in (("bbox", "box"), ("segm", "mask")):
        for metric in ("AP", "AP50"):
            row[f"{label}_{metric}"] = round(results[task][metric], 2)
    return row


def add_row(path: Path, row: dict, columns: Sequence[str] = COLUMNS) -> None:
    """Append a row to a csv file; the first one writes the header too."""
    new = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


def markdown_table(path: Path, columns: Sequence[str]) -> str:
    """Some columns of a csv file as a markdown table."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
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
