"""The tables of a project's README: our numbers beside the printed ones, and what may be said of their differences."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev

from instseg_d2.results import RUN_COLUMNS, parse_metrics, read_rows, replace_between, rows_as_markdown

from .plan import Planner
from .study import BUDGETS, Comparison, Row, Study, Table, load_study
from .verdict import compare

RULE = (
    "Ours: mean ± sample standard deviation over seeds (their number in the second column). Differences are taken "
    "seed by seed; ± is then the 95 % interval of their mean (Student's t). `agrees` and `opposite` to the paper, or "
    "`higher` and `lower` where it claims nothing, are said only if that interval excludes zero, otherwise `within "
    "noise`; of twenty verdicts one may be chance. `one seed` carries none. Printed numbers belong to the paper's data "
    "and schedule: in the quick budget only the signs of differences compare."
)
_ALONE = ("config", "dataset", "seed", "metrics", "iterations", "minutes", "hardware", "commit")

# Measured values: {(row, budget): {seed: {metric: value}}}
Values = Mapping[tuple[str, str], Mapping[int, Mapping[str, float]]]


def renew(readme: Path, results: Path) -> None:
    """Write the tables between `<!-- results -->` and `<!-- /results -->` of a project's README anew.

    Args:
        readme: its folder may hold an `ablations.py`.
        results: the project's csv file.

    Raises:
        ResultsError: the csv file has other columns, or the README no such markers.
        StudyError: the study does not load.
    """
    folder = readme.parent
    study = load_study(folder) if (folder / "ablations.py").is_file() else None
    replace_between(readme, "results", project_text(folder, study, read_rows(results, RUN_COLUMNS)))


def project_text(folder: Path, study: Study | None, rows: Sequence[Mapping[str, str]]) -> str:
    """All tables of a project as markdown: those of its study, then the runs that were recorded alone.

    Args:
        folder: of the project.
        study: of the project, if it has one.
        rows: of its csv file. Those of a study's row whose config has changed since are counted, but not shown.
    """
    parts = study_parts(folder, study, rows) if study else []
    alone = [row for row in rows if not row["row"]]
    if alone:
        parts += ["### Single runs"] if study else []
        parts.append(rows_as_markdown(alone, _ALONE))
    return "\n\n".join(parts)


def study_parts(folder: Path, study: Study, rows: Iterable[Mapping[str, str]]) -> list[str]:
    """Paragraphs and tables of a study."""
    current, outdated = _current(folder, study, [row for row in rows if row["row"]])
    values: dict = {}
    for row in current:
        values.setdefault((row["row"], row["budget"]), {})[int(row["seed"])] = parse_metrics(row["metrics"])
    parts = [RULE]
    for table in study.tables:
        parts.append(f"### {table.title}" + (f": {table.what}" if table.what else ""))
        parts += _table_parts(table, values)
    parts += [_provenance(budget, current) for budget in BUDGETS if any(row["budget"] == budget for row in current)]
    if outdated:
        names = ", ".join(f"{name} ({budget})" for name, budget in sorted({(r["row"], r["budget"]) for r in outdated}))
        parts.append(f"Left out, since the config has changed or the row is gone: {len(outdated)} runs of {names}.")
    return parts


def _current(folder: Path, study: Study, rows: list[Mapping[str, str]]) -> tuple[list, list]:
    """Rows of a csv file that were trained as the study says today, and the others."""
    planner = Planner(folder, study, Path())
    keys = {}
    for name, budget in {(row["row"], row["budget"]) for row in rows}:
        known = study.rows.get(name)
        if known and budget in BUDGETS and known.recipe(budget):
            keys[name, budget] = planner.task(known, budget, 0).fingerprint
    current, outdated = [], []
    for row in rows:
        (current if keys.get((row["row"], row["budget"])) == row["fingerprint"] else outdated).append(row)
    return current, outdated


def _table_parts(table: Table, values: Values) -> list[str]:
    parts, idle = [], []
    for budget in BUDGETS:
        able = [row for row in table.rows if row.recipe(budget)]
        if any((row.name, budget) in values for row in able):
            parts += [f"Budget `{budget}`:", _rows_table(table, budget, values)]
            claims = [one for one in table.comparisons if _applies(one, table, budget)]
            parts += [_comparisons_table(table, claims, budget, values)] if claims else []
        elif able:
            idle.append(budget)
    if not parts:
        parts.append(_rows_table(table, idle[0], values))
    parts += [f"Budget `{budget}`: not run." for budget in idle]
    return parts


def _applies(comparison: Comparison, table: Table, budget: str) -> bool:
    both = all(table.row(name).recipe(budget) for name in (comparison.row, comparison.baseline))
    return both and comparison.metric in table.metrics_in(budget)


def _rows_table(table: Table, budget: str, values: Values) -> str:
    columns, lines = ["row", "seeds"], []
    for metric in table.metrics_in(budget):
        is_printed = any(row.paper.get(metric) is not None for row in table.rows)
        columns += [metric, f"{metric}, paper"] if is_printed else [metric]
    for row in table.rows:
        runs = values.get((row.name, budget), {})
        line = {"row": f"{row.name}: {row.what}" if row.what else row.name, "seeds": len(runs)}
        for metric in table.metrics_in(budget):
            line[metric] = _ours(row, budget, [run[metric] for run in runs.values() if metric in run])
            line[f"{metric}, paper"] = _printed(row.paper.get(metric))
        lines.append(line)
    return rows_as_markdown(lines, columns)


def _ours(row: Row, budget: str, found: Sequence[float]) -> str:
    if not row.recipe(budget):
        return "none in this budget"
    if not found:
        return "not run"
    measured = [value for value in found if math.isfinite(value)]
    if not measured:
        return "not reported"
    digits = _digits(measured)
    if len(measured) == 1:
        return f"{measured[0]:.{digits}f}"
    return f"{mean(measured):.{digits}f} ± {stdev(measured):.{digits}f}"


def _digits(values: Iterable[float]) -> int:
    """Decimals to show: percentages get two, ratios four."""
    return 2 if any(abs(value) > 1.5 for value in values) else 4


def _printed(value: float | None) -> str:
    return "" if value is None else str(value)


def _comparisons_table(table: Table, comparisons: Iterable[Comparison], budget: str, values: Values) -> str:
    columns = ["compared", "metric", "seeds", "difference", "paper", "verdict"]
    return rows_as_markdown([_comparison(table, one, budget, values) for one in comparisons], columns)


def _comparison(table: Table, comparison: Comparison, budget: str, values: Values) -> dict[str, object]:
    metric = comparison.metric
    sides = [
        {seed: run[metric] for seed, run in values.get((name, budget), {}).items() if metric in run}
        for name in (comparison.row, comparison.baseline)
    ]
    printed = table.printed_difference(comparison)
    expected = comparison.expected if comparison.expected is not None else printed
    found = compare(*sides, expected)
    digits = _digits([*sides[0].values(), *sides[1].values()]) if found.n else 2
    shown = "" if math.isnan(found.mean) else f"{found.mean:+.{digits}f}"
    shown += "" if math.isnan(found.half_width) else f" ± {found.half_width:.{digits}f}"
    return {
        "compared": f"{comparison.row} − {comparison.baseline}",
        "metric": metric,
        "seeds": found.n,
        "difference": shown,
        "paper": f"{printed:+.4g}" if printed is not None else {1: "higher", -1: "lower"}.get(comparison.expected, ""),
        "verdict": found.verdict,
    }


def _provenance(budget: str, rows: Iterable[Mapping[str, str]]) -> str:
    """One sentence on how the numbers of a budget were made."""
    rows = [row for row in rows if row["budget"] == budget]
    keys = ("hardware", "torch", "detectron2", "commit")
    seen = {key: ", ".join(dict.fromkeys(row[key] for row in rows)) or "unknown" for key in keys}
    minutes = [float(row["minutes"]) for row in rows]
    return (
        f"Budget `{budget}`: trainings {len(rows)}, of {min(minutes):g} to {max(minutes):g} minutes, on "
        f"{seen['hardware']}; torch {seen['torch']}, detectron2 {seen['detectron2']}, commit {seen['commit']}."
    )
