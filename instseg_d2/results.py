"""Measured numbers: rows of `results/*.csv`, and the tables of a README that are made from them."""

import csv
import io
import json
import os
import platform
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import detectron2
import torch
from detectron2.config import LazyConfig
from omegaconf import DictConfig

from instseg_d2.files import write_whole
from instseg_d2.visualization.report import read_metrics

# One line a run. `row`, `budget`, `fingerprint` and `starts_from` belong to runs of a study (tools/reproduce.py); they
# are empty for a run that was recorded alone. `metrics` is `task/metric=value; ...`, see `format_metrics`: papers
# measure many things, and a column for each would change every line when one is added.
RUN_COLUMNS = (
    "row", "budget", "seed", "metrics", "config", "overrides", "starts_from", "fingerprint", "dataset", "iterations",
    "minutes", "hardware", "torch", "detectron2", "commit",
)  # fmt: skip
_USUAL_METRICS = tuple(f"{task}/{metric}" for task in ("bbox", "segm") for metric in ("AP", "AP50"))


class ResultsError(ValueError):
    """A csv file, a README or the results of a run are not what they must be; the message names the file."""


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
    """Short hash of the checkout, with `+` behind it when tracked files differ; empty outside of a checkout.

    Tables of results do not count: they change with every run that is noted.
    """

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!results", ":!projects/*/README.md")
        return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    except OSError:  # no git on this machine
        return ""


def surroundings(device: str) -> dict[str, str]:
    """What a run is made with: the columns `hardware`, `torch`, `detectron2` and `commit`."""
    return {
        "hardware": hardware(device),
        "torch": torch.__version__,
        "detectron2": detectron2.__version__,
        "commit": commit(Path(__file__).resolve().parents[1]),
    }


def run_facts(output_dir: Path, cfg: DictConfig) -> dict[str, str | float | int]:
    """The columns `dataset`, `seed`, `iterations` and `minutes` of a finished run.

    Args:
        output_dir: of the run; its `metrics.json` tells how long an iteration took. Minutes are those of the
            training, without evaluations, whether or not it was interrupted.
        cfg: of the run.

    Raises:
        FileNotFoundError: there is no `metrics.json`.
        ResultsError: it tells no times.
    """
    path = output_dir / "metrics.json"
    _, seconds = read_metrics(path).get("time", ((), ()))
    if not seconds:
        raise ResultsError(f"{path} has no times of iterations")
    names = cfg.dataloader.test.dataset.names
    return {
        "dataset": names if isinstance(names, str) else ", ".join(names),
        "seed": cfg.train.seed,
        "iterations": cfg.train.max_iter,
        "minutes": round(sum(seconds) / len(seconds) * cfg.train.max_iter / 60, 1),
    }


def read_results(path: Path) -> dict[str, float]:
    """`results.json` of a run as `{"task/metric": value}`.

    Raises:
        FileNotFoundError: the run is not evaluated.
    """
    results = json.loads(path.read_text())
    return {
        f"{task}/{metric}": value
        for task, metrics in results.items()
        for metric, value in metrics.items()
        if isinstance(value, int | float)
    }


def format_metrics(metrics: Mapping[str, float]) -> str:
    """The field `metrics` of a row: `segm/AP=26.07; segm/AP50=60.41`, six significant digits."""
    return "; ".join(f"{name}={value:.6g}" for name, value in metrics.items())


def parse_metrics(text: str) -> dict[str, float]:
    """Inverse of `format_metrics`."""
    pairs = (entry.rpartition("=") for entry in text.split("; ") if entry)
    return {name: float(value) for name, _, value in pairs}


def result_row(output_dir: Path, name: str) -> dict[str, str | float | int]:
    """A row of RUN_COLUMNS for a run that was trained and evaluated on its own.

    Args:
        output_dir: of the run; holds `config.yaml`, `metrics.json` and `results.json`.
        name: of the recipe.

    Raises:
        FileNotFoundError: the run is not complete.
    """
    found = read_results(output_dir / "results.json")
    cfg = LazyConfig.load(str(output_dir / "config.yaml"))
    device = "cuda" if cfg.train.device != "cpu" and torch.cuda.is_available() else "cpu"
    return {
        "metrics": format_metrics({metric: found[metric] for metric in _USUAL_METRICS if metric in found}),
        "config": name,
        **run_facts(output_dir, cfg),
        **surroundings(device),
    }


def read_rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """All rows of a csv file; none where there is no file.

    Raises:
        ResultsError: the file has other columns.
    """
    if not path.exists() or path.stat().st_size == 0:
        return []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        found = list(reader.fieldnames or ())
        if found != list(columns):
            raise ResultsError(f"{path} has the columns {','.join(found)}, not {','.join(columns)}; name another file")
        return list(reader)


def append_rows(path: Path, rows: Sequence[Mapping[str, object]], columns: Sequence[str]) -> None:
    """Append to a csv file, whose first rows bring the header; None becomes an empty field.

    Args:
        path: the file; folders on the way are made.
        rows: values by column; a column that is left out stays empty.
        columns: of the file, in order.

    Raises:
        ResultsError: the file has other columns.
        OSError: it cannot be written; the old file is untouched.
    """
    write_rows(path, [*read_rows(path, columns), *rows], columns)


def write_rows(path: Path, rows: Iterable[Mapping[str, object]], columns: Sequence[str]) -> None:
    """Write a csv file anew, whole or not at all; otherwise as `append_rows`."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text.getvalue())


def rows_as_markdown(rows: Iterable[Mapping[str, object]], columns: Sequence[str]) -> str:
    """Some columns of rows as a markdown table."""
    lines = [columns, ["---"] * len(columns), *([str(row[column]) for column in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def markdown_table(path: Path, columns: Sequence[str], keep: Callable[[dict[str, str]], bool] = bool) -> str:
    """Some columns of a csv file as a markdown table, of the rows that `keep` says yes to."""
    with path.open(newline="", encoding="utf-8") as file:
        return rows_as_markdown(filter(keep, csv.DictReader(file)), columns)


def replace_between(path: Path, marker: str, text: str) -> None:
    """Put a text between `<!-- marker -->` and `<!-- /marker -->` of a file.

    Raises:
        ResultsError: the file has no such markers.
    """
    content = path.read_text(encoding="utf-8")
    head, found, rest = content.partition(f"<!-- {marker} -->")
    _, closed, tail = rest.partition(f"<!-- /{marker} -->")
    if not found or not closed:
        raise ResultsError(f"'{path}' has no <!-- {marker} --> ... <!-- /{marker} -->")
    write_whole(path, f"{head}{found}\n{text}\n{closed}{tail}")
