from pathlib import Path

import pytest

from instseg_d2.reproduction import Comparison, Row, Study, Table, tables
from instseg_d2.reproduction.plan import Planner
from instseg_d2.results import RUN_COLUMNS, append_rows, read_rows

COMMON = {"minutes": 2.5, "hardware": "H", "torch": "T", "detectron2": "D", "commit": "c1"}


@pytest.fixture
def study():
    plain = Row("plain", quick="a.py", paper={"segm/AP": 33.0, "segm/AP50": 50})
    ours = Row("ours", quick="b.py", full="b.py", what="with x", paper={"segm/AP": 34.25})
    late = Row("late", full="a.py")
    claims = (Comparison("ours", "plain", "segm/AP"), Comparison("ours", "plain", "segm/AP50", expected=-1))
    return Study(
        Table(
            "Table 1",
            (plain, ours, late),
            ("segm/AP", "segm/AP50"),
            what="heads",
            comparisons=(*claims, Comparison("late", "ours", "occ/AP")),
            full_metrics=("occ/AP",),
        ),
        Table("Table 2", (late,), ("bbox/AP",)),
    )


def measured(project, study, row, seed, metrics, budget="quick", **changes):
    key = Planner(project, study, Path()).task(study.rows[row], budget, 0).fingerprint
    return {"row": row, "budget": budget, "seed": seed, "metrics": metrics, "fingerprint": key, **COMMON, **changes}


def text_of(project, study, rows, tmp_path):
    append_rows(tmp_path / "x.csv", rows, RUN_COLUMNS)
    return tables.project_text(project, study, read_rows(tmp_path / "x.csv", RUN_COLUMNS))


def test_means_spread_printed_numbers_and_verdicts(project, study, tmp_path):
    """AP of plain 30, 31, 32: 31 ± 1; of ours 32, 33.5, 35: 33.5 ± 1.5; differences 2, 2.5, 3: 2.5 ± 1.24 (t)."""
    rows = [measured(project, study, "plain", s, f"segm/AP={30 + s}; segm/AP50={60 + s}") for s in range(3)]
    rows += [measured(project, study, "ours", s, f"segm/AP={32 + 1.5 * s}; segm/AP50={60 + s}") for s in range(3)]
    lines = text_of(project, study, rows, tmp_path).splitlines()
    assert tables.RULE in lines
    assert "### Table 1: heads" in lines
    assert "| row | seeds | segm/AP | segm/AP, paper | segm/AP50 | segm/AP50, paper |" in lines
    assert "| plain | 3 | 31.00 ± 1.00 | 33.0 | 61.00 ± 1.00 | 50 |" in lines
    assert "| ours: with x | 3 | 33.50 ± 1.50 | 34.25 | 61.00 ± 1.00 |  |" in lines
    assert "| late | 0 | none in this budget |  | none in this budget |  |" in lines
    assert "| ours − plain | segm/AP | 3 | +2.50 ± 1.24 | +1.25 | agrees |" in lines
    assert "| ours − plain | segm/AP50 | 3 | +0.00 ± 0.00 | lower | within noise |" in lines
    assert "Budget `full`: not run." in lines
    assert "| late | 0 | not run |" in lines
    assert "occ/AP" not in "".join(lines)
    assert lines[-1] == "Budget `quick`: trainings 6, of 2.5 to 2.5 minutes, on H; torch T, detectron2 D, commit c1."


def test_one_seed_ratios_and_numbers_that_could_not_be_measured(project, study, tmp_path):
    rows = [
        measured(project, study, "plain", 0, "segm/AP=0.31; segm/AP50=nan"),
        measured(project, study, "ours", 0, "segm/AP=0.33; segm/AP50=nan"),
        measured(project, study, "ours", 1, "segm/AP=0.35; segm/AP50=nan"),
    ]
    lines = text_of(project, study, rows, tmp_path).splitlines()
    assert "| plain | 1 | 0.3100 | 33.0 | not reported | 50 |" in lines
    assert "| ours: with x | 2 | 0.3400 ± 0.0141 | 34.25 | not reported |  |" in lines
    assert "| ours − plain | segm/AP | 1 | +0.0200 | +1.25 | one seed |" in lines
    assert "| ours − plain | segm/AP50 | 0 |  | lower | not run |" in lines


def test_runs_of_an_earlier_config_are_counted_but_not_shown(project, study, tmp_path):
    rows = [
        measured(project, study, "plain", 0, "segm/AP=1; segm/AP50=1"),
        measured(project, study, "plain", 1, "segm/AP=9; segm/AP50=9", fingerprint="old"),
        {"row": "gone", "budget": "quick", "seed": 0, "metrics": "segm/AP=9", "fingerprint": "x", **COMMON},
    ]
    text = text_of(project, study, rows, tmp_path)
    assert "| plain | 1 | 1.0000 | 33.0 | 1.0000 | 50 |" in text
    assert text.endswith("the row is gone: 2 runs of gone (quick), plain (quick).")


def test_budgets_stand_apart(project, study, tmp_path):
    rows = [measured(project, study, "ours", 0, "segm/AP=30; segm/AP50=50")]
    full = "segm/AP=36; segm/AP50=56; occ/AP=26"
    rows += [measured(project, study, "ours", 0, full, budget="full", minutes=600)]
    text = text_of(project, study, rows, tmp_path)
    quick, full = text.index("Budget `quick`:\n"), text.index("Budget `full`:\n")
    of_quick, of_full = text.index("| ours: with x | 1 | 30.00 |"), text.index("| 36.00 | 34.25 | 56.00 |  | 26.00 |")
    assert quick < of_quick < full < of_full
    assert text.count("| ours − plain | segm/AP | 0 |  | +1.25 | not run |") == 1
    assert text.count("| late − ours | occ/AP | 0 |") == 1
    assert "Budget `full`: trainings 1, of 600 to 600 minutes," in text


def test_readme_has_the_study_and_the_single_runs(project, tmp_path):
    (project / "ablations.py").write_text(
        "from instseg_d2.reproduction import Row, Study, Table\n"
        "study = Study(Table('Table 9', (Row('plain', quick='a.py', paper={'segm/AP': 12.5}),), ('segm/AP',)))\n"
    )
    readme = project / "README.md"
    readme.write_text("head\n<!-- results -->\nold\n<!-- /results -->\ntail\n")
    csv = tmp_path / "x.csv"
    alone = {"config": "Tiny/a", "seed": 3, "dataset": "d", "metrics": "segm/AP=1", "iterations": 5, **COMMON}
    append_rows(csv, [alone], RUN_COLUMNS)
    tables.renew(readme, csv)
    first = readme.read_text()
    tables.renew(readme, csv)
    assert readme.read_text() == first
    assert "old" not in first
    assert "### Table 9\n\n| row | seeds |" in first
    assert "| plain | 0 | not run | 12.5 |" in first
    assert "### Single runs\n\n| config | dataset | seed |" in first
    assert "| Tiny/a | d | 3 | segm/AP=1 | 5 | 2.5 | H | c1 |" in first
    assert first.endswith("<!-- /results -->\ntail\n")


def test_project_without_a_study_has_its_single_runs_alone(tmp_path):
    alone = {"config": "Tiny/a", "seed": 3, "dataset": "d", "metrics": "segm/AP=1", "iterations": 5, **COMMON}
    text = text_of(tmp_path, None, [alone], tmp_path)
    assert text.startswith("| config | dataset | seed | metrics |")
