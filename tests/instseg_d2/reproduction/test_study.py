from dataclasses import replace

import pytest

from instseg_d2.reproduction import Comparison, Recipe, Row, SharedDetector, Study, StudyError, Table
from instseg_d2.reproduction.plan import Planner
from instseg_d2.reproduction.study import BUDGETS, find_project, load_study, studies

A, B = Row("A", quick="a"), Row("B long", quick="b", full="c")


def test_overrides_of_a_budget_come_after_those_of_the_row():
    row = Row("A", quick=Recipe("a", ("x=2",)), overrides=("x=1", "y=1"))
    assert row.recipe("quick") == Recipe("a", ("x=1", "y=1", "x=2"))
    assert row.recipe("full") is None


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Row("A, B", quick="a"), "no comma"),
        (lambda: Row("A"), "'A' has a config in no budget"),
        (lambda: Row("A", quick="a", overrides="x=1"), r"write \('x=1',\)"),
        (lambda: Table("T 1", (A, A), ("segm/AP",)), "T 1: two rows have the same name"),
        (lambda: Table("T 1", (A,), ("AP",)), "T 1: metrics is a tuple of task/metric"),
        (lambda: Table("T 1", (A,), "segm/AP"), "T 1: metrics is a tuple"),
        (
            lambda: Table("T 1", (Row("A", quick="a", paper={"segm/Ap": 1}),), ("segm/AP",)),
            "'segm/Ap'.*nearest: segm/AP",
        ),
        (lambda: Table("T 1", (A, B), ("segm/AP",), comparisons=(Comparison("A", "C", "segm/AP"),)), "row 'C'"),
        (lambda: Table("T 1", (A, B), ("segm/AP",), comparisons=(Comparison("A", "A", "x/y"),)), "metric 'x/y'"),
        (
            lambda: Study(Table("T 1", (A,), ("segm/AP",)), Table("T 2", (Row("A", quick="z"),), ("segm/AP",))),
            "two rows named 'A' are trained in different ways",
        ),
        (
            lambda: Study(
                Table(
                    "T 1",
                    tuple(Row(n, quick="a", shared_detector=SharedDetector("d", quick=n)) for n in "xy"),
                    ("segm/AP",),
                )
            ),
            "two shared detectors are named 'd'",
        ),
    ],
)
def test_mistakes_of_a_study_are_told(make, words):
    with pytest.raises(StudyError, match=words):
        make()


def test_row_of_two_tables_is_one_row_with_the_metrics_of_both():
    again = replace(A, paper={"bbox/AP": 3.0})
    study = Study(Table("T 1", (A, B), ("segm/AP",)), Table("T 2", (again,), ("bbox/AP", "segm/AP")))
    assert list(study.rows) == ["A", "B long"]
    assert study.metrics_of("A", "quick") == ("segm/AP", "bbox/AP")
    assert study.metrics_of("B long", "quick") == ("segm/AP",)


def test_metrics_of_one_budget():
    table = Table(
        "T 1", (replace(B, paper={"occ/AP": 1.0}),), ("segm/AP",), quick_metrics=("x/IoU",), full_metrics=("occ/AP",)
    )
    assert table.metrics_in("quick") == ("segm/AP", "x/IoU")
    assert Study(table).metrics_of("B long", "full") == ("segm/AP", "occ/AP")


def test_rows_are_chosen_by_name_in_the_order_of_the_study():
    study = Study(Table("T 1", (A, B), ("segm/AP",)))
    assert study.choose(["all"]) == study.choose(["B long", "A"]) == [A, B]
    with pytest.raises(StudyError, match="row 'B lon' is not known.*nearest: B long"):
        study.choose(["B lon"])


def test_printed_difference_needs_both_numbers():
    rows = (
        Row("A", quick="a", paper={"segm/AP": 35.5}),
        Row("B", quick="b", paper={"segm/AP": 34}),
        Row("C", quick="c"),
    )
    table = Table("T 1", rows, ("segm/AP",))
    assert table.printed_difference(Comparison("A", "B", "segm/AP")) == 1.5
    assert table.printed_difference(Comparison("A", "C", "segm/AP")) is None


def test_unknown_project_is_told_with_the_nearest():
    with pytest.raises(StudyError, match="project 'Baseline' is not known.*nearest: Baselines"):
        find_project("Baseline")


def test_project_without_ablations(tmp_path):
    with pytest.raises(StudyError, match=r"has no ablations\.py in .*with one: .*Baselines"):
        find_project(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1\nstudy = missing\n", r"ablations\.py:2: NameError"),
        ("from instseg_d2.reproduction import Row\nRow('A')\n", r"ablations\.py:2: StudyError: 'A' has a config in no"),
        ("x = (\n", r"ablations\.py:1: SyntaxError"),
        ("x = 1\n", "must define `study`"),
    ],
)
def test_broken_file_is_told_with_its_line(tmp_path, text, words):
    (tmp_path / "ablations.py").write_text(text)
    with pytest.raises(StudyError, match=words):
        load_study(tmp_path)


@pytest.mark.parametrize("folder", studies(), ids=lambda folder: folder.name)
@pytest.mark.parametrize("budget", BUDGETS)
def test_every_row_of_every_project_can_be_planned(folder, budget, tmp_path):
    study = load_study(folder)
    tasks = Planner(folder, study, tmp_path).tasks(study.rows.values(), budget, [0, 1])
    assert len(tasks) == 2 * sum(row.recipe(budget) is not None for row in study.rows.values())
    assert len({task.folder for task in tasks}) == len(tasks)
